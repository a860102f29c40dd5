"""check(): a sweep held against limits and against a baseline, one verdict a limit, for scheduled jobs and CI."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Annotated, Any

from pydantic import BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic_core import PydanticCustomError

from sweeps.config.messages import hint, key, problem_lines
from sweeps.config.types import CUSTOM, Flag, Number
from sweeps.errors import ConfigError, InputError
from sweeps.results.key_metrics import KeyMetrics
from sweeps.results.results import Results, load_results
from sweeps.results.trial_matching import match
from sweeps.store.store import Store, SweepFiles
from sweeps.text.formatting import number

LATEST = "latest"
_ROUNDING = 1e-12  # of shares
_BAD = ("diverging", "diverged")
_MANY = 10.0  # times as much, from which on a percentage says little


def _increase(value: Any) -> Any:
    try:
        _increase_of(value)
    except ValueError as error:
        problem = "a percent of the baseline's loss is needed, such as 5%, or a number >= 0"
        raise PydanticCustomError(CUSTOM, problem) from error
    return value


Increase = Annotated[str | float, BeforeValidator(_increase)]
Share = Annotated[Number, Field(ge=0, le=1)]


@dataclass(frozen=True)
class Limits:
    """What a sweep must keep to; None is no limit. As keys of a mapping they are read by :meth:`of`.

    ``max_loss_increase`` is a percent of the baseline's best loss (``5%``), or how much it may rise (``0.01``).
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    max_loss_increase: Increase | None = "1%"
    min_stable_share: Share | None = None
    max_stable_share_drop: Share | None = 0.01
    no_new_divergence: Flag = False  # no trial that converged in the baseline may diverge
    allow_incomplete: Flag = False  # trials may be missing

    @classmethod
    def of(cls, document: Mapping[str, Any], where: str = "limits") -> Limits:
        """The limits of a mapping such as a YAML file holds.

        Raises:
            ConfigError: an unknown key, or a value that is not allowed.
        """
        known = [field.name for field in fields(cls)]
        if unknown := [name for name in document if name not in known]:
            raise ConfigError(where, [f"{key(name)}: unknown key{hint(name, known)}" for name in unknown])
        try:
            return TypeAdapter(cls).validate_python(dict(document))
        except ValidationError as error:
            raise ConfigError(where, problem_lines(error)) from error


@dataclass(frozen=True)
class Check:
    """One limit, and whether the sweep keeps to it."""

    name: str  # the limit's key, or ``complete``
    passed: bool
    message: str  # a line: what was measured, and what is allowed
    measured: float | None  # None where there is nothing to measure
    allowed: float | None
    skipped: bool = False  # there is no baseline yet; it counts as passed


def check(files: SweepFiles, baseline: SweepFiles | None, limits: Limits | None = None) -> list[Check]:
    """Hold a sweep against a baseline.

    Args:
        files: the sweep.
        baseline: the sweep that it is held against; None where there is none yet: what needs one is skipped.
        limits: by default those of ``Limits()``.

    Raises:
        StoreError: a file of either sweep is damaged.
        InputError: the two cannot be compared: they are the same sweep, or minimise different losses.
    """
    limits = limits or Limits()
    results = load_results(files)
    before = None if baseline is None else load_results(baseline)
    if before is not None:
        _check_comparable(results, before)
    now = KeyMetrics.of(results)
    was = None if before is None else KeyMetrics.of(before)
    checks = [] if limits.allow_incomplete else [_complete(results)]
    if limits.max_loss_increase is not None:
        checks.append(_loss(now, was, limits.max_loss_increase, before))
    if limits.min_stable_share is not None:
        checks.append(_share(now, limits.min_stable_share))
    if limits.max_stable_share_drop is not None:
        checks.append(_drop(now, was, limits.max_stable_share_drop))
    if limits.no_new_divergence:
        checks.append(_divergence(results, before))
    return checks


def baseline_of(files: SweepFiles, wanted: str = LATEST) -> SweepFiles | None:
    """The sweep of an id, or ``latest``: the newest complete one of the same name, planned no later than this one.

    Returns:
        The baseline; None where ``latest`` finds none.

    Raises:
        StoreError: no sweep, or more than one, has that id.
    """
    store = Store.of(files)
    if wanted != LATEST:
        return store.find(wanted)
    name = files.manifest()["name"]
    for other in store.sweeps():
        if other.sweep_id == files.sweep_id or not other.created or other.created > files.created:
            continue
        if other.manifest()["name"] == name and is_complete(other):
            return other
    return None


def is_complete(files: SweepFiles) -> bool:
    """Whether every trial of a sweep is stored, and nobody is at work on it."""
    planned = files.planned()
    return planned.is_complete and len(files.shards.done()) == planned.shards and files.holder() is None


def junit(files: SweepFiles, checks: Sequence[Check]) -> str:
    """The checks as JUnit's XML, one test case a check."""
    name = _xml(str(files.manifest()["name"]))
    failures, skipped = sum(not c.passed for c in checks), sum(c.skipped for c in checks)
    totals = {"tests": str(len(checks)), "failures": str(failures), "errors": "0"}
    suites = ElementTree.Element("testsuites", {"name": "sweeps check", **totals})
    facts = {"name": f"{name} {files.sweep_id}", **totals, "skipped": str(skipped)}
    suite = ElementTree.SubElement(suites, "testsuite", facts)
    for entry in checks:
        case = ElementTree.SubElement(suite, "testcase", {"classname": f"sweeps.check.{name}", "name": entry.name})
        if entry.skipped:
            ElementTree.SubElement(case, "skipped", {"message": entry.message})
        elif not entry.passed:
            failure = ElementTree.SubElement(case, "failure", {"message": entry.message, "type": "CheckFailed"})
            failure.text = f"{entry.message}\nmeasured: {entry.measured}\nallowed: {entry.allowed}"
        else:
            ElementTree.SubElement(case, "system-out").text = entry.message
    ElementTree.indent(suites)
    return ElementTree.tostring(suites, encoding="unicode", xml_declaration=True) + "\n"


def _increase_of(given: str | float) -> tuple[float, bool]:
    """How much, and whether that is a share of the baseline's loss.

    Raises:
        ValueError: neither a number nor a percent, or negative.
    """
    text = str(given).strip()
    relative = text.endswith("%")
    amount = float(text.removesuffix("%")) / (100 if relative else 1)
    if not 0 <= amount < math.inf:
        raise ValueError(f"{given}: at least 0")
    return amount, relative


def _check_comparable(results: Results, before: Results) -> None:
    if results.files.sweep_id == before.files.sweep_id:
        raise InputError(f"sweep {results.files.sweep_id} cannot be its own baseline")
    for what, mine, theirs in (
        ("task.loss", results.config.task.loss, before.config.task.loss),
        ("metric.name", results.config.metric.name, before.config.metric.name),
    ):
        if mine != theirs:
            told = f"its {what} is {theirs}, that of {results.files.sweep_id} {mine}"
            raise InputError(f"baseline {before.files.sweep_id}: cannot be compared: {told}")


def _complete(results: Results) -> Check:
    stored, planned = results.stored, results.planned
    failed = len(results.files.shards.failures())
    told = f"{stored:,} of {planned:,} trials are stored" + (f", {failed:,} shards could not be run" if failed else "")
    return Check("complete", stored == planned, told, stored, planned)


def _loss(now: KeyMetrics, was: KeyMetrics | None, limit: str | float, before: Results | None) -> Check:
    name = "max_loss_increase"
    if was is None or before is None:
        return _skipped(name)
    if was.best is None:
        return Check(name, True, "no trial of the baseline has a loss to be held against", now.best, None)
    amount, relative = _increase_of(limit)
    # Losses within the verdicts' absolute tolerance are equal: of 1e-15 any rounding is many percent.
    allowed = was.best * (1 + amount) + before.config.verdict.atol if relative else was.best + amount
    if now.best is None:
        return Check(name, False, f"every trial diverged; the baseline's best loss is {_loss_word(was)}", None, allowed)
    share = ""
    if was.best > 0:
        times = now.best / was.best
        told = f"{number(times)} times as much" if times >= _MANY else f"{100 * (times - 1):+.3g} %"
        share = f" ({told})"
    kept = f"at most {limit if relative else number(amount)} more than the baseline's {_loss_word(was)} is allowed"
    return Check(name, now.best <= allowed, f"the best loss is {_loss_word(now)}{share}; {kept}", now.best, allowed)


def _share(now: KeyMetrics, limit: float) -> Check:
    told = f"{_share_word(now)} of the trials are stable; at least {_percent(limit)} is allowed"
    return Check("min_stable_share", now.stable_share >= limit, told, _measured(now), limit)


def _drop(now: KeyMetrics, was: KeyMetrics | None, limit: float) -> Check:
    name = "max_stable_share_drop"
    if was is None:
        return _skipped(name)
    if not was.stored:
        return Check(name, True, "the baseline has no trials to be held against", _measured(now), None)
    # Compared as whole trials are: in floating point 0.9 - 0.8 is more than 0.1.
    allowed = max(was.stable_share - limit, 0.0)
    told = f"{_share_word(now)} of the trials are stable, {_share_word(was)} in the baseline"
    passed = now.stable_share >= allowed - _ROUNDING
    return Check(name, passed, f"{told}; a drop by {_percent(limit)} is allowed", _measured(now), allowed)


def _divergence(results: Results, before: Results | None) -> Check:
    name = "no_new_divergence"
    if before is None:
        return _skipped(name)
    pair = match(before, results)
    common, broken = pair.common.trials, pair.common.broken
    if not common:
        return Check(name, False, "no trial is in both sweeps, so nothing is known of new divergence", None, 0)
    told = f"{broken:,} of {common:,} common trials converged in the baseline and diverge now"
    if broken:
        worst = pair.common.changed.table.to_pylist()  # those that broke first
        row = next((row for row in worst if row["verdict_before"] == "converged" and row["verdict"] in _BAD), None)
        told += f"; the first is trial {row['trial']}" if row else ""
    by = "" if pair.by == "trial" else f" ({pair.why})"
    return Check(name, broken == 0, f"{told}{by}", broken, 0)


def _skipped(name: str) -> Check:
    return Check(name, True, "there is no baseline yet", None, None, skipped=True)


def _measured(figures: KeyMetrics) -> float | None:
    return figures.stable_share if figures.stored else None


def _loss_word(figures: KeyMetrics) -> str:
    assert figures.best is not None
    return number(figures.best)


def _share_word(figures: KeyMetrics) -> str:
    return _percent(figures.stable_share) if figures.stored else "none"


def _percent(share: float) -> str:
    return f"{100 * share:.4g} %"


def _xml(text: str) -> str:
    """Text without what XML cannot hold."""
    return re.sub(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "\N{REPLACEMENT CHARACTER}", text)
