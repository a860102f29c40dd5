"""Random and Sobol search: any range of trials is that of the whole, valid, and the same on every machine."""

import hashlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from scipy.stats import qmc

from sweeps.config.loader import parse
from sweeps.errors import ConfigError
from sweeps.planning.plan import Plan
from sweeps.planning.planner import make_plan
from sweeps.planning.task_loader import load_task
from sweeps.search.philox_points import PhiloxPoints
from sweeps.search.sobol_points import SobolPoints
from tests.support.documents import document

SPACE = {
    "lr": {"min": 1e-3, "max": 0.1, "scale": "log"},
    "momentum": {"min": 0, "max": 0.99},
    "dampening": {"distribution": "q_uniform", "min": 0, "max": 0.4, "q": 0.1},
    "nesterov": {"values": [False, True]},
    "weight_decay": {"values": [0, 0.1, 0.2], "probabilities": [0.5, 0.25, 0.25]},
    "init.bias": {"distribution": "normal", "sigma": 2},
}
METHODS = ("random", "sobol")


def plan_of(method: str, cap: int = 500, parameters: object = SPACE, **changes: Any) -> Plan:
    config = parse(document(method=method, run_cap=cap, parameters=parameters, **changes), "c.yaml")
    return make_plan(config, load_task(config.task))


def columns(plan: Plan, start: int, stop: int) -> dict[str, list[float]]:
    trials = plan.trials(start, stop)
    names = ("lr", "momentum", "weight_decay", "dampening", "nesterov")
    own = {name: getattr(trials.hyperparams, name).tolist() for name in names}
    return own | {"seed": trials.seed.tolist(), "start": [row[1] for row in trials.start.tolist()]}


@pytest.mark.parametrize("method", METHODS)
@given(first=st.integers(0, 499), number=st.integers(1, 500), seeds=st.sampled_from([[0], [3, 1, 2]]))
def test_any_range_of_trials_is_that_of_the_whole(method: str, first: int, number: int, seeds: list[int]) -> None:
    plan = plan_of(method, seeds=seeds)
    stop = min(first + number, len(plan))
    if first < stop:
        whole = columns(plan, 0, len(plan))
        assert columns(plan, first, stop) == {name: values[first:stop] for name, values in whole.items()}
        assert plan.ids(plan.trials(first, stop)) == plan.ids(plan.trials(0, len(plan)))[first:stop]


@pytest.mark.parametrize("method", METHODS)
def test_a_larger_cap_keeps_the_trials(method: str) -> None:
    few, many = plan_of(method, 100), plan_of(method, 1_000_000_000)
    assert len(many) == 1_000_000_000
    assert columns(few, 0, 100) == columns(many, 0, 100)
    assert len(columns(many, 999_999_990, 1_000_000_000)["lr"]) == 10


@pytest.mark.parametrize("method", METHODS)
def test_another_axis_keeps_the_values_of_the_others_with_random_search(method: str) -> None:
    fewer = {name: axis for name, axis in SPACE.items() if name != "weight_decay"}
    same = columns(plan_of(method), 0, 500)["lr"] == columns(plan_of(method, parameters=fewer), 0, 500)["lr"]
    assert same  # lr is the first dimension of Sobol points too


@pytest.mark.parametrize("method", METHODS)
def test_trials_are_drawn_from_their_distributions(method: str) -> None:
    found = columns(plan_of(method, 4_000), 0, 4_000)
    assert stats.kstest(found["lr"], stats.loguniform(1e-3, 0.1).cdf).pvalue > 0.01
    assert stats.kstest(found["momentum"], stats.uniform(0, 0.99).cdf).pvalue > 0.01
    assert stats.kstest(found["start"], stats.norm(0, 2).cdf).pvalue > 0.01
    counts = np.unique(found["weight_decay"], return_counts=True)[1]
    assert stats.chisquare(counts, [2_000, 1_000, 1_000]).pvalue > 0.01


@pytest.mark.parametrize("method", METHODS)
def test_torch_accepts_all_trials(method: str) -> None:
    space = SPACE | {"momentum": {"values": [0, 0.9]}}
    plan = plan_of(method, 500, space)
    h = plan.trials(0, len(plan)).hyperparams  # raises what torch.optim.SGD raises
    assert h.nesterov.any()
    assert (h.dampening != 0).any()
    assert not h.dampening[h.momentum == 0].any()
    assert len(set(plan.ids(plan.trials(0, len(plan))))) == len(plan)


@pytest.mark.parametrize("method", METHODS)
def test_every_setting_is_trained_with_each_seed_and_fold(method: str) -> None:
    task = {"dataset": {"kind": "linear", "n": 12, "d": 1, "validation": {"folds": 3}}}
    plan = plan_of(method, 100, {"lr": {"min": 0, "max": 1}}, task=task, seeds=[5, 6], training={"epochs": 1})
    assert len(plan) == 96  # 16 settings
    trials = plan.trials(0, len(plan))
    rows = zip(trials.hyperparams.lr.tolist(), trials.seed.tolist(), trials.options["fold"].tolist(), strict=True)
    settings = set(trials.hyperparams.lr.tolist())
    assert len(settings) == 16
    assert set(rows) == {(lr, seed, fold) for lr in settings for seed in (5, 6) for fold in (0, 1, 2)}


def test_a_finite_space_is_drawn_without_replacement() -> None:
    space = {"lr": {"min": 0, "max": 1, "count": 50}, "momentum": {"values": [0, 0.5]}}
    plan = plan_of("random", 70, space)
    ids, fewer = plan.ids(plan.trials(0, 70)), plan_of("random", 20, space)
    assert len(set(ids)) == len(plan) == 70
    assert fewer.ids(fewer.trials(0, 20)) == ids[:20]
    assert len(plan_of("random", 1_000, space)) == 100


@pytest.mark.parametrize("method", METHODS)
def test_repeated_settings_are_merged(method: str) -> None:
    space = {"lr": {"values": [0.1, 0.2, 0.3], "probabilities": [0.8, 0.1, 0.1]}}
    plan = plan_of(method, 200, space)
    assert sorted(columns(plan, 0, len(plan))["lr"]) == [0.1, 0.2, 0.3]
    assert plan.merged == {"the same trial more than once": 197}


@pytest.mark.parametrize("method", METHODS)
def test_trials_of_one_batch_size_are_packed_together(method: str) -> None:
    space = {"lr": {"min": 0, "max": 1}, "batch_size": {"min": 1, "max": 4}}
    plan = plan_of(method, 300, space)
    sizes = plan.trials(0, len(plan)).options["batch_size"]
    assert sizes.tolist() == sorted(sizes.tolist(), key=sizes.tolist().index)
    assert sum(plan.stages[0].parts) == 300
    assert set(sizes) == {1, 2, 3, 4}


def test_sobol_points_are_scipys_before_scrambling(monkeypatch: pytest.MonkeyPatch) -> None:
    from sweeps.search import sobol_points

    monkeypatch.setattr(sobol_points, "_scrambled", lambda directions, words: [v << 20 for v in directions])
    monkeypatch.setattr(sobol_points, "random_words", lambda *_: np.zeros(53, dtype=np.uint64))
    names = tuple(f"axis{i}" for i in range(sobol_points.MAX_DIMENSIONS))
    points, expected = SobolPoints(0, names), qmc.Sobol(len(names), scramble=False, bits=32)
    for start, stop in ((0, 128), (128, 4_096)):
        own = np.stack([points.column(name, start, stop) for name in names], axis=1)
        np.testing.assert_allclose(own, expected.random(stop - start), atol=2.0**-52)


@pytest.mark.parametrize("seed", [0, 1, 2**53 - 1])
def test_scrambled_sobol_points_are_spread_evenly(seed: int) -> None:
    names = ("a", "b", "c", "d")
    points = np.stack([SobolPoints(seed, names).column(name, 0, 512) for name in names], axis=1)
    for column in points.T:
        assert sorted((column * 512).astype(int)) == list(range(512))
    assert qmc.discrepancy(points) < 2 * qmc.discrepancy(qmc.Sobol(4, seed=0).random(512))
    other = SobolPoints(seed + 1, names).column("a", 0, 512)
    assert (other != points[:, 0]).all()


def test_points_are_the_same_on_every_machine() -> None:
    sobol, philox = SobolPoints(7, ("lr", "momentum")), PhiloxPoints(7)
    digest = hashlib.blake2b(digest_size=8)
    for points in (sobol.column("momentum", 1_000_000, 1_001_000), philox.column("lr", 10**9 + 1, 10**9 + 1_001)):
        digest.update(points.tobytes())
    for method in METHODS:
        plan = plan_of(method)
        digest.update("".join(plan.ids(plan.trials(0, 500))).encode())
    assert digest.hexdigest() == "0ba4647d24252130"


WRONG = {
    "finite": ({"lr": {"values": [1, 2]}}, {"run_cap": 3_000_000}, "at most 2,000,000 trials are drawn where no axis"),
    "batch size": (
        {"lr": {"min": 0, "max": 1}, "batch_size": {"values": [1, 2]}},
        {"run_cap": 3_000_000},
        "at most 2,000,000 trials are drawn where batch_size is an axis",
    ),
    "nesterov alone": (
        {"lr": {"min": 0, "max": 1}, "nesterov": {"value": True}},
        {},
        "parameters.nesterov: nesterov needs a momentum",
    ),
    "damped nesterov": (
        {
            "lr": {"min": 0, "max": 1},
            "momentum": {"value": 0.9},
            "nesterov": {"values": [False, True]},
            "dampening": {"value": 0.1},
        },
        {},
        "parameters.dampening: nesterov needs zero dampening",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_drawn_is_refused(case: str) -> None:
    parameters, changes, message = WRONG[case]
    with pytest.raises(ConfigError, match=message):
        plan_of("random", parameters=parameters, **{"cap" if k == "run_cap" else k: v for k, v in changes.items()})
