import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sweeps.config.loader import parse
from sweeps.config.schema import HYPERPARAMETERS
from sweeps.errors import ConfigError
from sweeps.planning import normalize
from sweeps.planning.plan import Plan
from sweeps.planning.planner import make_plan
from sweeps.planning.prepared import PreparedSweep
from sweeps.planning.shards import Shard, Shards
from sweeps.planning.task_loader import load_task
from tests.support.documents import document


def plan_of(parameters: object, **changes: object) -> Plan:
    config = parse(document(parameters=parameters, **changes), "c.yaml")
    return make_plan(config, load_task(config.task))


def rows(plan: Plan) -> list[tuple[float, ...]]:
    return rows_of(plan, 0, len(plan))


def rows_of(plan: Plan, start: int, stop: int) -> list[tuple[float, ...]]:
    trials = plan.trials(start, stop)
    h = trials.hyperparams
    return [
        tuple(map(float, row))
        for row in zip(*(getattr(h, name) for name in HYPERPARAMETERS), trials.seed, *trials.start.T, strict=True)
    ]


def axis(values: st.SearchStrategy[object]) -> st.SearchStrategy[list[object]]:
    return st.lists(values, min_size=1, max_size=3)


MAPPINGS = st.fixed_dictionaries(
    {
        "lr": axis(st.sampled_from([0.1, 0.01, 0])),
        "momentum": axis(st.sampled_from([0, 0.5, 0.9])),
        "weight_decay": axis(st.sampled_from([0, 0.1])),
        "dampening": axis(st.sampled_from([0, 0.5, -0.5])),
        "nesterov": axis(st.booleans()),
        "init.weight": axis(st.sampled_from([0, -1])),
        "init.bias": st.just([0.5]),
    }
)


def accepted_by_torch(row: dict[str, float]) -> bool:
    arguments = {name: row[name] for name in HYPERPARAMETERS} | {"nesterov": bool(row["nesterov"])}
    try:
        torch.optim.SGD([torch.zeros(1)], **arguments)
    except ValueError:
        return False
    return True


@given(st.lists(MAPPINGS, min_size=1, max_size=3))
def test_a_plan_is_the_set_of_trials_that_torch_accepts_and_counts_the_rest(
    mappings: list[dict[str, list[float]]],
) -> None:
    everything = [
        dict(zip(mapping, values, strict=True))
        for mapping in mappings
        for values in itertools.product(*mapping.values())
    ]
    fine = [row for row in everything if accepted_by_torch(row)]
    names = (*HYPERPARAMETERS, "init.weight", "init.bias")
    distinct = {
        tuple(float(row[name]) for name in names)
        for row in (row | {"dampening": row["dampening"] if row["momentum"] else 0} for row in fine)
    }
    parameters = [{name: {"values": values} for name, values in mapping.items()} for mapping in mappings]
    if not distinct:
        with pytest.raises(ConfigError, match="no trials are left"):
            plan_of(parameters)
        return
    plan = plan_of(parameters)
    assert len(plan) == len(distinct)
    assert {(*row[:5], *row[6:]) for row in rows(plan)} == distinct
    assert sum(plan.dropped.values()) <= len(everything) - len(fine)
    assert len(plan) + sum(plan.dropped.values()) + sum(plan.merged.values()) == len(everything)


def test_reasons_are_counted() -> None:
    plan = plan_of(
        {
            "lr": {"values": [0.1, 0.01, 0.1]},
            "momentum": {"values": [0, 0.9]},
            "dampening": {"values": [0, 0.5]},
            "nesterov": {"values": [False, True]},
            "init.weight": {"value": 0},
            "init.bias": {"value": 0},
        },
        seeds=[3, 4],
    )
    # 3 x 2 x 2 x 2 rows for each of 2 seeds, which do nothing; then one lr of the three stands twice
    assert plan.merged == {normalize.NO_SEED: 24, normalize.SAME_VALUE: 8, normalize.NO_DAMPENING: 2}
    assert plan.dropped == {normalize.NEEDS_MOMENTUM: 4, normalize.NEEDS_ZERO_DAMPENING: 2}
    assert len(plan) == 2 * (1 + 2 + 1) == 48 - 24 - 8 - 2 - 4 - 2


def test_same_trials_of_two_mappings_are_merged() -> None:
    plan = plan_of([{"lr": {"values": [0.1, 0.2]}}, {"lr": {"values": [0.2, 0.3]}}])
    assert [row[0] for row in rows(plan)] == [0.1, 0.2, 0.3]
    assert plan.merged == {normalize.SAME_TRIAL: 1}


def test_the_product_runs_in_the_order_of_the_file() -> None:
    plan = plan_of({"momentum": {"values": [0.5, 0.9]}, "lr": {"values": [0.2, 0.1]}})
    assert [(row[1], row[0]) for row in rows(plan)] == [(0.5, 0.2), (0.5, 0.1), (0.9, 0.2), (0.9, 0.1)]


def test_what_is_not_named_has_torchs_default() -> None:
    plan = plan_of({"momentum": {"value": 0.5}})
    defaults = torch.optim.SGD([torch.zeros(1)]).defaults
    assert rows(plan)[0][:5] == (defaults["lr"], 0.5, *(float(defaults[n]) for n in HYPERPARAMETERS[2:]))


def test_seeds_matter_where_they_do() -> None:
    drawn = {"lr": {"value": 0.1}}
    given_start = drawn | {"init.weight": {"value": 0}, "init.bias": {"value": 0}}
    zeros = {"dataset": {"kind": "line"}, "model": {"kind": "linear", "init": "zeros"}}
    shuffled = {"epochs": 1, "order": "shuffled"}
    assert len(plan_of(drawn, seeds=[0, 1])) == 2
    assert len(plan_of(given_start, seeds=[0, 1])) == 1
    assert len(plan_of(drawn, seeds=[0, 1], task=zeros)) == 1
    assert len(plan_of(given_start, seeds=[0, 1], training=shuffled)) == 2


def test_one_start_value_for_all_weights_and_one_of_them_set_apart() -> None:
    task = {"dataset": {"kind": "linear", "d": 3}}
    plan = plan_of(
        {"init.weight": {"values": [0, 1]}, "init.weight.1": {"value": 7}, "init.bias": {"value": 2}}, task=task
    )
    starts = {row[6:] for row in rows(plan)}
    assert {start[1] for start in starts} == {7.0}
    assert (0.0, 7.0, 0.0, 2.0) in starts


def test_unknown_start_values_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"parameters\.init\.weight\.3: the model's parameters are weight, bias"):
        plan_of({"init.weight.3": {"value": 0}})


@given(st.lists(MAPPINGS, min_size=2, max_size=4))
def test_mappings_that_overlap_hold_each_trial_once(mappings: list[dict[str, list[float]]]) -> None:
    fine = [mapping | {"nesterov": [False], "momentum": [0.9, 0.5]} for mapping in mappings]
    plan = plan_of([{name: {"values": values} for name, values in mapping.items()} for mapping in fine])
    found = rows(plan)
    assert len(set(found)) == len(found) == len(plan)
    assert [rows_of(plan, n, n + 1)[0] for n in range(len(plan))] == found


def test_overlaps_of_large_products_are_products_again() -> None:
    axis = {"min": 0.001, "max": 0.1, "count": 20_000}
    mapping = {"lr": axis, "momentum": axis, "init.weight": {"value": 0}, "init.bias": {"value": 0}}
    other = mapping | {"momentum": {"values": [0.5, 0.001, 0.1]}, "weight_decay": {"values": [0, 0.1]}}
    plan = plan_of([mapping, other])
    assert len(plan) == 20_000**2 + 20_000 * (6 - 2)
    assert plan.merged == {normalize.SAME_TRIAL: 40_000}
    assert len(plan.trial_sets) == 3


def test_shards_are_made_when_they_are_asked_for() -> None:
    shards = Shards(((10**18 + 1, 10),))
    assert len(shards) == 10**17 + 1
    assert shards[-1] == Shard(10**17, 10**18, 10**18 + 1)
    assert [len(shard) for shard in shards[-2:]] == [10, 1]
    with pytest.raises(IndexError):
        shards[10**17 + 1]


@given(st.integers(1, 9))
def test_any_packing_gives_the_same_trials(size: int) -> None:
    parameters = {
        "lr": {"values": [0.1, 0.2, 0.3]},
        "momentum": {"values": [0, 0.9, 0.5]},
        "nesterov": {"values": [False, True]},
    }
    plan = plan_of(parameters, execution={"trials_per_shard": size})
    shards = plan.shards()
    assert [shard.index for shard in shards] == list(range(math.ceil(len(plan) / size)))
    together = plan.trials(0, len(plan))
    pieces = [plan.trials(shard.start, shard.stop) for shard in shards]
    assert [trial_id for piece in pieces for trial_id in plan.ids(piece)] == plan.ids(together)
    np.testing.assert_array_equal(np.concatenate([piece.number for piece in pieces]), np.arange(len(plan)))


def test_a_trial_has_the_same_id_in_every_sweep() -> None:
    small, wide = plan_of({"lr": {"value": 0.2}}), plan_of({"lr": {"values": [0.1, 0.2]}}, name="other")
    assert small.ids(small.trials(0, 1)) == wide.ids(wide.trials(1, 2))


@pytest.mark.parametrize(
    "changes",
    [
        {"training": {"epochs": 5}},
        {"training": {"epochs": 4, "dtype": "float64"}},
        {"training": {"epochs": 4, "batch_size": 2}},
        {"training": {"epochs": 4, "early_stopping": {"patience": 5}}},
        {"task": {"dataset": {"kind": "line", "slope": 0.9}}},
        {"task": {"dataset": {"kind": "line"}, "model": {"kind": "linear", "bias": False}}},
        {"parameters": {"lr": {"value": 0.2}, "momentum": {"value": 0.1}}},
        {"seeds": [1]},
    ],
    ids=str,
)
def test_what_defines_a_trial_changes_its_id(changes: dict[str, object]) -> None:
    parameters = changes.pop("parameters", {"lr": {"value": 0.2}})
    base, other = plan_of({"lr": {"value": 0.2}}), plan_of(parameters, **changes)
    assert base.ids(base.trials(0, 1)) != other.ids(other.trials(0, 1))


def test_ids_are_distinct(make_prepared: Callable[..., PreparedSweep]) -> None:
    plan = make_prepared().plan
    assert len(set(plan.ids(plan.trials(0, len(plan))))) == len(plan) == 12


def test_a_million_trials_are_planned_as_a_formula() -> None:
    plan = plan_of(
        {
            "lr": {"min": 0.001, "max": 0.1, "count": 10_000},
            "momentum": {"min": 0, "max": 0.9, "count": 10_000},
            "init.weight": {"value": 0},
            "init.bias": {"value": 0},
        }
    )
    assert len(plan) == 10**8
    assert rows_at(plan, 99_999_999) == (0.1, 0.9)


def rows_at(plan: Plan, number: int) -> tuple[float, float]:
    h = plan.trials(number, number + 1).hyperparams
    return float(h.lr[0]), float(h.momentum[0])


def test_absurd_sizes_are_refused() -> None:
    """From the lengths of the axes, before there are any axes."""
    for count, message in (
        (100_000, "10,000,000,000 trials; at most 1,000,000,000 are allowed"),
        (10_000_000, "100,000,000,000,000 combinations; at most 1,000,000,000 trials are allowed"),
    ):
        with pytest.raises(ConfigError, match=message):
            plan_of({"lr": {"min": 0, "max": 1, "count": count}, "momentum": {"min": 0.1, "max": 1, "count": count}})
    huge = {"min": 1, "max": 2, "count": 10_000_000}
    with pytest.raises(ConfigError, match="about 1e70 combinations"):
        plan_of({"init.weight": huge}, task={"dataset": {"kind": "linear", "d": 10}})


def test_absurd_numbers_of_mappings_are_refused() -> None:
    axis = {"min": 0, "max": 1, "count": 10_000_000}
    for parameters, message in (
        ([{"lr": axis}] * 3, "30,000,000 values on all axes; at most 20,000,000 are allowed"),
        ([{}] * 20_000, "140,000 axes in 20,000 mappings; at most 100,000 are allowed"),
        ([{"lr": {"values": [i, 1000 - i]}} for i in range(500)], "too many mappings overlap"),
    ):
        with pytest.raises(ConfigError, match=message):
            plan_of(parameters)
    with pytest.raises(ConfigError, match="about 1e7000 combinations"):
        plan_of({"init.weight": axis}, task={"dataset": {"kind": "linear", "n": 1000, "d": 1000}})


@pytest.mark.parametrize(
    ("expected", "message"),
    [
        (
            {"where": {"lr": 1}, "final": {"wieght": 1}},
            r"expected\[0\].final.wieght: the model's parameters are w",
        ),
        (
            {"where": {"init.w": 1}, "final": {"bias": 1}},
            r"expected\[0\].where.init.w: the start values are those of",
        ),
    ],
)
def test_expected_names_that_no_trial_has_are_refused(expected: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        plan_of({"lr": {"value": 1}}, expected=[{"case": "c"} | expected])


def test_absurdly_many_points_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"record\.spacing: given 'all' for 5,000,000 steps; at most 1,000,000"):
        plan_of({"lr": {"value": 0.1}}, record={"spacing": "all"}, training={"epochs": 1_000_000})


def test_never_fewer_shards_than_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)))
    parameters = {"lr": {"min": 0.001, "max": 0.1, "count": 100}}
    assert len(plan_of(parameters, execution={}).shards()) >= 8
