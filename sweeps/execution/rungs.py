"""Training in rungs: train trials to a rung, or on from their states at the one before, with the same bits.

A rung's table has the columns of a shard's table as of its end, and columns of the states and curves that are needed to
train on. Once all trials have ended, their rows are those of the shard: see :func:`ended`.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sgdcore import Thresholds, Trajectories, judge
from sgdcore.kernels.base import OnSteps
from sgdcore.recording import ListedSteps
from sgdcore.trajectories import Curves, State
from sweeps.arrow_columns import PRUNED, STOPPED_EPOCH, lists, matrix
from sweeps.execution.shard_table import recorded_steps, shard_table
from sweeps.execution.training import train_trials
from sweeps.planning.plan import Trials
from sweeps.planning.prepared import PreparedSweep
from sweeps.planning.shards import Rung

STATE = "state."  # prefix of the columns that a shard's table does not have
_ARRAYS = ("momentum_buffers", "start", "target", "direction", "peak", "peak_step")  # of State, (T, P)
_COUNTS = ("first_nonfinite_step", "clipped_steps")  # of State, (T,)


def train_rung(
    prepared: PreparedSweep, trials: Trials, rung: Rung, on_steps: OnSteps | None = None, **changes: Any
) -> pa.Table:
    """Train trials to a rung, from their start or from their rows of the rung before; return their rows.

    ``changes`` override arguments of sgdcore.train.
    """
    own = prepared.at(trials)
    listed = np.array(recorded_steps(own), dtype=np.int64)
    before = None if rung.before is None else _rows(rung.before, trials.number)
    done = 0 if before is None else _state_step(before) // own.steps_per_epoch
    arguments: dict[str, Any] = {"epochs": rung.epochs - done, "record": ListedSteps(listed), "on_steps": on_steps}
    if before is None:
        trained = train_trials(prepared, trials, **(arguments | changes))
    else:
        # Everything but the state is that of the new run: the old one is not needed to train on.
        bare = train_trials(prepared, trials, **(arguments | changes | {"epochs": 0, "on_steps": None}))
        earlier = _trajectories(bare, before)
        trained = train_trials(prepared, trials, **(arguments | changes | {"start": earlier}))
        trained = replace(trained, curves=_joined(earlier.curves, trained.curves, listed))
    verdicts = judge(trained, Thresholds(**prepared.config.verdict.model_dump()))
    table = shard_table(prepared, trials, trained, verdicts, None if before is None else before["predicted_radius"])
    for name, column in _state_columns(trained).items():
        table = table.append_column(STATE + name, column)
    return table.replace_schema_metadata({**table.schema.metadata, b"steps": json.dumps(trained.steps.tolist())})


def ended(table: pa.Table, steps: list[int], epochs: int, last: int) -> pa.Table:
    """Return rows of a rung's table as rows of their shard's table: curves at all recorded steps, null after the rung.

    Args:
        table: the rows.
        steps: the recorded steps of a trial that is trained to the end.
        epochs: the epochs of the rung.
        last: the epochs of training.
    """
    listed = np.array(json.loads(table.schema.metadata[b"steps"]), dtype=np.int64)
    kept, rows = np.isin(listed, steps), len(table)
    columns = {}
    for name in table.column_names:
        if name.startswith(STATE):
            continue
        column = table[name]
        if pa.types.is_list(column.type) and name != "final":
            known = matrix(column, rows)[:, kept]
            missing = np.full((rows, len(steps) - known.shape[1]), np.nan, dtype=known.dtype)
            column = lists(np.concatenate([known, missing], axis=1))
        columns[name] = column
    stopped = epochs < last
    alive = table["first_nonfinite_step"].is_null().to_numpy()
    columns[PRUNED] = pa.array(alive & stopped)
    columns[STOPPED_EPOCH] = pa.array(np.full(rows, float(epochs)), mask=~(alive & stopped))
    return pa.table(columns).replace_schema_metadata({**table.schema.metadata, b"steps": json.dumps(steps)})


def _state_step(table: pa.Table) -> int:
    return int(json.loads(table.schema.metadata[b"steps"])[-1])


def _rows(table: pa.Table, numbers: NDArray[np.int64]) -> pa.Table:
    """Return the rows of trials, in their order."""
    found = table["trial"].to_numpy()
    order = np.argsort(found)
    return table.take(order[np.searchsorted(found, numbers, sorter=order)])


def _state_columns(trained: Trajectories) -> dict[str, pa.Array]:
    state = trained.state
    columns = {name: lists(getattr(state, name)) for name in _ARRAYS}
    columns |= {name: pa.array(getattr(state, name)) for name in _COUNTS}
    if trained.curves.squared_norm is not None:
        columns["squared_norm"] = lists(trained.curves.squared_norm)
    return columns


def _trajectories(like: Trajectories, table: pa.Table) -> Trajectories:
    """Return the run of a rung's rows, whose end the next rung starts from."""
    rows, dtype = len(table), like.params.dtype
    arrays = {name: matrix(table[STATE + name], rows) for name in _ARRAYS}
    arrays = {name: values.astype(getattr(like.state, name).dtype) for name, values in arrays.items()}
    state = State(
        step=_state_step(table),
        params=matrix(table["final"], rows).astype(dtype),
        **arrays,
        **{name: table[STATE + name].to_numpy().copy() for name in _COUNTS},
    )
    names, has_norm = like.parameter_names, STATE + "squared_norm" in table.column_names
    path = None
    if like.curves.path is not None:
        path = np.stack([matrix(table[f"param.{name}"], rows) for name in names], axis=2).astype(dtype)
    curves = Curves(
        steps=np.array(json.loads(table.schema.metadata[b"steps"]), dtype=np.int64),
        loss=matrix(table["loss"], rows),
        squared_norm=matrix(table[STATE + "squared_norm"], rows) if has_norm else None,
        validation_loss=None if like.curves.validation_loss is None else matrix(table["validation_loss"], rows),
        path=path,
    )
    return replace(like, state=state, curves=curves)


def _joined(earlier: Curves, later: Curves, listed: NDArray[np.int64]) -> Curves:
    """Return the curves of both runs, without the end of the earlier one if it is not a recorded step."""
    kept = np.isin(earlier.steps, listed)

    def both(name: str) -> Any:
        first, second = getattr(earlier, name), getattr(later, name)
        return None if first is None or second is None else np.concatenate([first[:, kept], second[:, 1:]], axis=1)

    names = ("loss", "squared_norm", "validation_loss", "path")
    return Curves(np.concatenate([earlier.steps[kept], later.steps[1:]]), *map(both, names))
