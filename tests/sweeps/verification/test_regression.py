"""Checks against a baseline: every limit, the JUnit file by a parser of others, the newest baseline, history."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import junitparser
import numpy as np
import pandas as pd
import pytest
from pydantic import BaseModel, ValidationError

from sgdcore.verdict import VERDICTS
from sweeps.errors import ConfigError, InputError, StoreError
from sweeps.results.history import history
from sweeps.store.store import Store, SweepFiles
from sweeps.verification.regression import Check, Limits, baseline_of, check, junit
from tests.support.command_line import Cli
from tests.support.random_results import stored, trials

HOSTILE = "<b>night</b> & \"day\" '{{ 7 * 7 }}' ]]>"


def rows(converged: int, diverged: int = 0, best: float = 0.5) -> pd.DataFrame:
    """So many trials of each verdict, those that converged first."""
    frame = trials().iloc[: converged + diverged]
    verdict = np.where(frame["trial"] < converged, "converged", "diverged")
    return frame.assign(verdict=verdict, final_loss=best + np.arange(len(frame)))


@dataclass(frozen=True)
class Case:
    """A sweep, its baseline, and what is said of one limit."""

    now: pd.DataFrame
    was: pd.DataFrame
    limits: dict[str, Any]
    name: str
    passed: bool
    measured: float | None
    told: str


TEN = rows(10)
CASES = {
    "as before": Case(TEN, TEN, {}, "max_loss_increase", True, 0.5, "(+0 %)"),
    "a percent more": Case(rows(10, best=0.504), TEN, {}, "max_loss_increase", True, 0.504, "at most 1% more"),
    "two percent more": Case(rows(10, best=0.51), TEN, {}, "max_loss_increase", False, 0.51, "(+2 %)"),
    "two of five": Case(rows(10, best=0.51), TEN, {"max_loss_increase": "5%"}, "max_loss_increase", True, 0.51, "5%"),
    "a number": Case(rows(10, best=0.51), TEN, {"max_loss_increase": 0.02}, "max_loss_increase", True, 0.51, "0.02"),
    "too much": Case(rows(10, best=0.6), TEN, {"max_loss_increase": "0.05"}, "max_loss_increase", False, 0.6, "0.05"),
    "lower": Case(rows(10, best=0.1), TEN, {"max_loss_increase": 0}, "max_loss_increase", True, 0.1, "(-80 %)"),
    "rounding": Case(rows(10, best=3e-14), rows(10, best=1e-14), {}, "max_loss_increase", True, 3e-14, "(+200 %)"),
    "many times": Case(
        rows(10, best=4.9e-7), rows(10, best=7e-14), {}, "max_loss_increase", False, 4.9e-7, "7e6 times as"
    ),
    "from nothing": Case(rows(10, best=1e-3), rows(10, best=0.0), {}, "max_loss_increase", False, 1e-3, "0.001;"),
    "all diverged": Case(rows(0, 10), TEN, {}, "max_loss_increase", False, None, "every trial diverged"),
    "all did before": Case(TEN, rows(0, 10), {}, "max_loss_increase", True, 0.5, "no trial of the baseline"),
    "share": Case(rows(9, 1), TEN, {"min_stable_share": 0.9}, "min_stable_share", True, 0.9, "90 % of the trials"),
    "less": Case(rows(8, 2), TEN, {"min_stable_share": 0.9}, "min_stable_share", False, 0.8, "at least 90 %"),
    "drop": Case(rows(9, 1), TEN, {}, "max_stable_share_drop", False, 0.9, "100 % in the baseline"),
    "small drop": Case(
        rows(8, 2), rows(9, 1), {"max_stable_share_drop": 0.1}, "max_stable_share_drop", True, 0.8, "10 % is allowed"
    ),
    "rise": Case(TEN, rows(8, 2), {"max_stable_share_drop": 0}, "max_stable_share_drop", True, 1.0, "80 %"),
    "diverges now": Case(
        rows(8, 2), TEN, {"no_new_divergence": True}, "no_new_divergence", False, 2, "the first is trial 8"
    ),
    "did before": Case(rows(8, 2), rows(8, 2), {"no_new_divergence": True}, "no_new_divergence", True, 0, "0 of 10"),
    "nothing in common": Case(
        rows(3),
        trials().iloc[30:33],
        {"no_new_divergence": True},
        "no_new_divergence",
        False,
        None,
        "the sweeps have no trials in common",
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_limits(store: Store, case: Case) -> None:
    now, was = stored(store, "b2", case.now), stored(store, "a1", case.was)
    checks = {entry.name: entry for entry in check(now, was, Limits.of(case.limits))}
    assert checks["complete"].passed
    found = checks[case.name]
    assert (found.passed, found.skipped) == (case.passed, False)
    assert found.measured == (None if case.measured is None else pytest.approx(case.measured))
    assert case.told in found.message


def test_another_training_is_matched_by_setting_and_says_so(store: Store) -> None:
    was = stored(store, "a1", rows(10))
    now = stored(store, "b2", rows(9, 1).assign(trial_id=trials(context="other")["trial_id"]), context="other")
    [*_, found] = check(now, was, Limits(no_new_divergence=True))
    assert (found.passed, found.measured) == (False, 1)
    assert "matched by setting" in found.message


def test_missing_trials_fail_unless_they_may(store: Store) -> None:
    was, now = stored(store, "a1", rows(10)), stored(store, "b2", rows(10), cuts=[4], missing=1)
    first, *_ = check(now, was)
    assert first == Check("complete", False, "4 of 10 trials are stored", 4, 10)
    assert all(entry.passed for entry in check(now, was, Limits(allow_incomplete=True)))


def test_without_a_baseline_what_needs_one_is_skipped(store: Store) -> None:
    limits = Limits(min_stable_share=1.0, no_new_divergence=True)
    checks = check(stored(store, "a1", rows(9, 1)), None, limits)
    assert {entry.name for entry in checks if entry.skipped} == {
        "max_loss_increase",
        "max_stable_share_drop",
        "no_new_divergence",
    }
    assert [entry.name for entry in checks if not entry.passed] == ["min_stable_share"]


def test_sweeps_that_cannot_be_compared(store: Store) -> None:
    files = stored(store, "a1", rows(3))
    with pytest.raises(InputError, match="a1 cannot be its own baseline"):
        check(files, files)
    huber = {"task": {"dataset": {"kind": "line"}, "loss": "huber"}}
    with pytest.raises(InputError, match=r"baseline b2: .* its task.loss is huber, that of a1 is mse"):
        check(files, stored(store, "b2", rows(3), config=huber))
    best = {"metric": {"name": "best_loss"}}
    with pytest.raises(InputError, match=r"metric\.name is best_loss"):
        check(files, stored(store, "c3", rows(3), config=best))


def test_the_newest_earlier_complete_sweep_of_the_name(store: Store) -> None:
    def made(sweep_id: str, day: int, **facts: Any) -> SweepFiles:
        return stored(store, sweep_id, rows(4), cuts=[2], created=f"2026-01-{day:02}T00:00:00+00:00", **facts)

    made("a1", 1)
    made("a2", 2)
    made("a3", 3, missing=1)
    made("a4", 4, name="other")
    now = made("a5", 5)
    made("a6", 6)
    (store.root / "sweeps" / "a7").mkdir()
    found = baseline_of(now)
    assert found is not None
    assert found.sweep_id == "a2"
    with store.find("a2").lease():  # somebody is at work on it
        found = baseline_of(now, "latest")
        assert found is not None
        assert found.sweep_id == "a1"
    assert baseline_of(store.find("a1")) is None
    wanted = baseline_of(now, "a4")
    assert wanted is not None
    assert wanted.sweep_id == "a4"
    with pytest.raises(StoreError, match="no such sweep"):
        baseline_of(now, "b")


BAD_LIMITS = {
    "increase": ({"max_loss_increase": "five"}, "max_loss_increase: given 'five'; a percent"),
    "negative": ({"max_loss_increase": "-1%"}, "max_loss_increase: given '-1%'; a percent"),
    "no number": ({"max_loss_increase": "nan%"}, "max_loss_increase: given 'nan%'"),
    "flag": ({"max_loss_increase": True}, "max_loss_increase: given true"),
    "share": ({"min_stable_share": 1.5}, "min_stable_share: given 1.5; must be <= 1"),
    "drop": ({"max_stable_share_drop": -0.1}, "max_stable_share_drop: given -0.1; must be >= 0"),
    "text": ({"no_new_divergence": "yes"}, "no_new_divergence: given 'yes'; must be true or false"),
    "key": ({"min_stable_shares": 1}, "min_stable_shares: unknown key (did you mean min_stable_share?)"),
}


@pytest.mark.parametrize(("document", "told"), BAD_LIMITS.values(), ids=BAD_LIMITS.keys())
def test_limits_that_are_none(document: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Limits.of(document, "schedules.yaml")
    [line] = str(caught.value).splitlines()
    assert line.startswith(f"schedules.yaml: {told}")


def test_limits_are_a_part_of_other_models() -> None:
    class Schedule(BaseModel):
        check: Limits = Limits()

    read = Schedule.model_validate({"check": {"max_loss_increase": "5%", "max_stable_share_drop": None}})
    assert read.check == Limits(max_loss_increase="5%", max_stable_share_drop=None)
    with pytest.raises(ValidationError, match="max_loss_increase"):
        Schedule.model_validate({"check": {"max_loss_increase": "x"}})


def test_junit_is_read_by_others(store: Store, tmp_path: Path) -> None:
    files = stored(store, "b2", rows(8, 2), name=HOSTILE + "\ufffe")
    limits = Limits(min_stable_share=0.9, no_new_divergence=True)
    path = tmp_path / "junit.xml"
    for baseline, failed, skipped in ((stored(store, "a1", rows(10)), 3, 0), (None, 1, 3)):
        checks = check(files, baseline, limits)
        path.write_text(junit(files, checks), encoding="utf-8")
        [suite] = junitparser.JUnitXml.fromfile(str(path))
        assert suite.name == f"{HOSTILE}\N{REPLACEMENT CHARACTER} b2"
        assert (suite.tests, suite.failures, suite.errors, suite.skipped) == (5, failed, 0, skipped)
        for case, entry in zip(suite, checks, strict=True):
            assert case.name == entry.name
            results = [result for result in case.result if not isinstance(result, junitparser.Error)]
            kinds = {type(result) for result in results}
            wanted = junitparser.Skipped if entry.skipped else None if entry.passed else junitparser.Failure
            assert kinds == ({wanted} if wanted else set())
            assert all(result.message == entry.message for result in results)
        suite.update_statistics()  # what is told of the whole is what its cases say
        assert (suite.tests, suite.failures, suite.skipped) == (5, failed, skipped)
    assert ElementTree.parse(path).getroot().tag == "testsuites"


def test_history(store: Store) -> None:
    frames = {"a1": trials(1), "b2": trials(2, 0.5), "c3": rows(0, 5)}
    for day, (sweep_id, frame) in enumerate(frames.items(), 1):
        tags = {"schedule": "nightly", "day": str(day)}
        created = f"2026-01-0{day}T00:00:00+00:00"
        files = stored(store, sweep_id, frame, name=f"n{day % 2}", created=created, tags=tags)
        with files.lease():
            pass
    stored(store, "d4", trials(), cuts=[9], missing=1)  # not finished
    (store.root / "sweeps" / "e5").mkdir()
    found = history(store)
    assert found["id"].tolist() == ["e5", "a1", "b2", "c3"]
    assert found["state"].tolist() == ["damaged", "computed", "computed", "computed"]
    assert found["created"].dt.day.tolist()[1:] == [1, 2, 3]
    for row, frame in zip(found.iloc[1:].to_dict("records"), frames.values(), strict=True):
        best = frame.loc[frame["verdict"] != "diverged", "final_loss"].min()
        assert row["best"] == best or (np.isnan(row["best"]) and np.isnan(best))
        assert row["stable_share"] == (~frame["verdict"].isin(["diverging", "diverged"])).mean()
        assert [row[verdict] for verdict in VERDICTS] == [(frame["verdict"] == verdict).sum() for verdict in VERDICTS]
        assert row["trials"] == len(frame)
    assert history(store, name="n1")["id"].tolist() == ["a1", "c3"]
    assert history(store, tags={"schedule": "nightly", "day": "2"})["id"].tolist() == ["b2"]
    assert len(history(store, name="nobody")) == 0
    (store.find("b2").shards.folder / "00000.parquet").write_bytes(b"damaged")
    damaged = history(store).set_index("id").loc["b2"]
    assert (damaged["state"], damaged["name"]) == ("damaged", "n0")
    assert pd.isna(damaged["best"])


@pytest.mark.slow
def test_the_command_line(cli: Cli, store: Store, tmp_path: Path) -> None:
    stored(store, "a1a1", rows(10), created="2026-01-01T00:00:00+00:00")
    stored(store, "b2b2", rows(8, 2), created="2026-01-02T00:00:00+00:00", name=HOSTILE, config={"name": HOSTILE})
    told = cli("check", "b2", "--baseline", "a1", "--junit", "checks.xml", code=4)
    assert "passed: max_loss_increase: the best loss is 0.5 (+0 %)" in told.stdout
    assert "failed: max_stable_share_drop: 80 % of the trials are stable" in told.stdout
    assert told.stderr == "error: sweep b2b2: max_stable_share_drop\n"
    [suite] = junitparser.JUnitXml.fromfile(str(tmp_path / "checks.xml"))
    assert (suite.tests, suite.failures) == (3, 1)
    good = cli(
        "check", "b2", "--baseline", "a1", "--max-stable-share-drop", "none", "--max-loss-increase", "0", "--json"
    )
    document = json.loads(good.stdout)
    assert (document["passed"], document["baseline"]) == (True, "a1a1")
    assert [entry["name"] for entry in document["checks"]] == ["complete", "max_loss_increase"]
    assert "--max-loss-increase: given 'x'" in cli("check", "b2", "--max-loss-increase", "x", code=2).stderr
    told = cli("check", "b2", "--min-stable-share", "x", code=2).stderr
    assert told == "error: --min-stable-share: given 'x'; must be a number\n"
    page = tmp_path / "page.html"
    shown = cli("compare", "a1", "b2", "--html", page).stdout
    assert "Trials with different verdicts in A and B" in shown
    assert HOSTILE in shown
    assert page.exists()
    compared = json.loads(cli("compare", "a1", "b2", "--json").stdout)
    [common] = compared["tables"]["common"]
    assert (common["common"], common["broken"], common["equal_loss"]) == (10, 2, 10)
    assert "1 given; compare needs 2 to 12 sweeps" in cli("compare", "a1", code=2).stderr
