"""Trials that amplify their rounding are held to what torch's own rounding does, by verify and by replay."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from sgdcore import train
from sgdcore.trajectories import NEVER
from sweeps.execution.training import start_values, train_trials
from sweeps.planning.plan import Trials
from sweeps.planning.prepared import PreparedSweep
from sweeps.store.store import Store, SweepFiles
from sweeps.tracking.mlflow.tracker import MlflowTracker
from sweeps.verification.audit import verify
from sweeps.verification.differences import Audit
from sweeps.verification.replay import replay_trial
from sweeps.verification.tolerance import (
    ROUNDING,
    TrialOutcome,
    in_other_units,
    outcome_differences,
    overflow_steps,
    trained_by_torch,
)

MakePrepared = Callable[..., PreparedSweep]


def growing(features: int, **training: Any) -> dict[str, Any]:
    """Trials at and beyond the edge of stability; sums over their batches run in another order than torch's."""
    return {
        "task": {"dataset": {"kind": "linear", "n": 40, "d": features, "noise": 0.5}},
        "training": {"epochs": 20, "batch_size": 7, "order": "shuffled", **training},
        "parameters": {"lr": {"min": 0.1, "max": 1.5, "count": 3, "scale": "log"}, "momentum": {"values": [0, 0.9]}},
        "tracking": {"trials": "none"},
    }


def audit(files: SweepFiles) -> list[str]:
    found: Audit = verify(files, MlflowTracker(Store.of(files).tracking_uri), sample=100)
    return [str(line) for line in found.differences if line.where.endswith("recomputed")]


@pytest.mark.slow
@pytest.mark.parametrize("features", [1, 10])
@pytest.mark.parametrize(("dtype", "floor"), [("float32", 1e-6), ("float64", 2e-15)])
def test_rounding_that_grows_is_no_difference(
    make_prepared: MakePrepared,
    stored: Callable[[PreparedSweep], SweepFiles],
    monkeypatch: pytest.MonkeyPatch,
    features: int,
    dtype: str,
    floor: float,
) -> None:
    """With next to nothing allowed to trials that do not amplify it, so that all growing ones need the measure."""
    monkeypatch.setitem(ROUNDING, dtype, floor)
    files = stored(make_prepared(**growing(features, dtype=dtype)))
    assert audit(files) == []
    replays = [replay_trial(files, str(trial)) for trial in (0, 2, 3)]  # verify has trained all 6 again
    assert [replay.agrees for replay in replays] == [True] * 3
    assert any("the trial amplifies rounding, torch's own errors to " in replay.conclusion for replay in replays)


@pytest.mark.slow
# By the numba kernel, by torch's batched operations; the second trial amplifies rounding.
@pytest.mark.parametrize(("activation", "lr", "epochs"), [("relu", 3, 40), ("gelu", 2, 40)])
def test_a_network_that_amplifies_rounding_is_no_difference(
    make_prepared: MakePrepared, stored: Callable[[PreparedSweep], SweepFiles], activation: str, lr: float, epochs: int
) -> None:
    model = {"kind": "mlp", "hidden": [12], "activation": activation}
    prepared = make_prepared(
        task={"dataset": {"kind": "sine", "n": 40}, "model": model, "loss": "huber"},
        training={"epochs": epochs, "batch_size": 7, "order": "shuffled"},
        parameters={"lr": {"values": [0.1, lr]}},
        tracking={"trials": "none"},
    )
    files = stored(prepared)
    assert audit(files) == []
    replays = [replay_trial(files, str(trial)) for trial in (0, 1)]
    assert [replay.agrees for replay in replays] == [True] * 2
    assert any("the trial amplifies rounding, torch's own errors to " in replay.conclusion for replay in replays)


@pytest.mark.slow
def test_more_than_rounding_is_told_of_trials_that_amplify_it(
    make_prepared: MakePrepared, stored: Callable[[PreparedSweep], SweepFiles]
) -> None:
    files = stored(make_prepared(**growing(10), execution={"trials_per_shard": 6}))
    table = files.shards.read(0)
    final = [[None if v is None else v * 1.01 for v in values] for values in table["final"].to_pylist()]
    place = table.column_names.index("final")
    files.shards.replace(0, table.set_column(place, "final", pa.array(final, table.schema.field("final").type)))
    changed = {trial for trial, values in enumerate(final) if any(v is not None for v in values)}
    assert "diverging" in table["verdict"].to_pylist()
    assert {int(line.split("trial ")[1].split(",")[0]) for line in audit(files)} == changed
    assert [replay_trial(files, str(trial)).agrees for trial in changed] == [False] * len(changed)


STOPPED = np.array([2e37, -1e38, np.nan])  # final parameters of a trial that overflowed
CURVE = np.array([1.0, 5.0, np.nan])
ROUNDED = CURVE * (1 + 1e-7)
OVERFLOWS: dict[str, tuple[int, Any, Any, set[str]]] = {  # steps later than torch; parameters, losses; what is told
    "the same": (0, STOPPED, CURVE, set()),
    "rounded": (0, STOPPED * (1 + 1e-7), CURVE, set()),
    "a sum that is in range": (0, [2e37, -1e38, 3e38], ROUNDED, set()),
    "a sum that overflows": (0, [2e37, np.nan, np.nan], ROUNDED, set()),
    "the step before": (-1, STOPPED / 7, ROUNDED * [1, np.nan, 1], set()),
    "the step after": (1, STOPPED, [1, 5 * (1 + 1e-7), 9], set()),
    "long before": (-9, STOPPED, ROUNDED * [1, np.nan, 1], {"first_nonfinite_step", "loss[1]"}),
    "no other rounding": (0, STOPPED * [np.nan, 1, 1], CURVE, {"final[0]"}),
    "no other rounding, another step": (-1, STOPPED, CURVE, {"first_nonfinite_step"}),
    "a gap in the curve": (0, STOPPED, ROUNDED * [np.nan, 1, 1], {"loss[0]"}),
}


@pytest.mark.parametrize(("later", "final", "loss", "told"), OVERFLOWS.values(), ids=OVERFLOWS)
def test_which_of_two_sums_overflows_is_rounding_too(
    make_prepared: MakePrepared, later: int, final: Any, loss: Any, told: set[str]
) -> None:
    prepared, trial, stop = overflowing(make_prepared)
    torchs = TrialOutcome(stop, {"final": STOPPED, "loss": CURVE})
    ours = TrialOutcome(stop + later, {"final": np.array(final), "loss": np.array(loss)})
    assert {what for what, *_ in outcome_differences(prepared, trial, ours, torchs)} == told


def overflowing(make_prepared: MakePrepared, **training: Any) -> tuple[PreparedSweep, Trials, int]:
    """A trial that overflows, growing by half or more a step, and when it does."""
    prepared = make_prepared(**growing(10, **training))
    trial = prepared.plan.trials(5, 6)
    first, last = overflow_steps(prepared, trial)
    stop = int(trained_by_torch(prepared, trial).first_nonfinite_step[0])
    assert stop - 9 < first < stop < last < stop + 9
    return prepared, trial, stop


def test_an_overflow_may_come_after_the_last_step(make_prepared: MakePrepared) -> None:
    whole = {"batch_size": 40, "order": "sequential"}
    _, _, stop = overflowing(make_prepared, epochs=120, **whole)
    prepared = make_prepared(**growing(10, epochs=stop - 1, **whole))
    trial = prepared.plan.trials(5, 6)
    torchs = TrialOutcome(NEVER, {"final": STOPPED, "loss": CURVE})
    assert overflow_steps(prepared, trial)[1] == stop
    for earlier, told in ((1, set()), (20, {"first_nonfinite_step"})):
        ours = TrialOutcome(stop - earlier, {"final": STOPPED, "loss": ROUNDED})
        assert {what for what, *_ in outcome_differences(prepared, trial, ours, torchs)} == told


@pytest.mark.slow
@pytest.mark.parametrize("bias", [True, False])
def test_in_other_units_parameters_are_others_and_the_trials_the_same(make_prepared: MakePrepared, bias: bool) -> None:
    sweep = growing(3, dtype="float64")
    sweep["task"]["model"] = {"kind": "linear", "bias": bias}
    sweep["parameters"]["dampening"] = {"values": [0, 0.5]}
    prepared = make_prepared(**sweep)
    trials = prepared.plan.trials(0, len(prepared.plan))
    run = train_trials(prepared, trials, epochs=5)
    factors = []
    for other in in_other_units(prepared, trials, (0.5, 0.98, 3)):
        again = train(
            other.task,
            trials.hyperparams,
            epochs=5,
            batch_size=7,
            order="shuffled",
            dtype="float64",
            seeds=trials.seed,
            start=other.start,
        )
        np.testing.assert_allclose(again.params / other.factor, run.params, rtol=1e-9, atol=1e-12)
        assert (again.params != run.params).any(axis=1).all()
        np.testing.assert_array_equal(other.start, start_values(prepared, trials) * other.factor)
        factors.append(other.factor)
    assert len(set(factors)) == len(factors) == 3
