"""The content of trial runs as columns; all writers log exactly this."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sweeps.arrow_columns import PRUNED, VALIDATION_LOSSES, matrix
from sweeps.config.schema import HYPERPARAMETERS, is_option
from sweeps.store.shard_times import ENDED, STARTED
from sweeps.tracking.base import LoggedRun, TrackedSweep
from sweeps.tracking.names import MAX_FINAL_METRICS, PRUNED_TAG, STOPPED_EARLY, SWEEP_ID, TRIAL_ID, VERDICT

PARAM_LENGTH = 6000  # characters; MLflow truncates longer values
TAG_LENGTH = 8000
_FIGURES = (
    "final_loss",
    "best_loss",
    *VALIDATION_LOSSES,
    "first_nonfinite_step",
    "steps_to_tolerance",
    "overshoot_percent",
    "peak_value",
    "clipped_share",
    "best_epoch",
    "stopped_epoch",
)


@dataclass(frozen=True, eq=False)
class TrialRuns:
    """The content of T MLflow runs: texts as lists of length T, metric points as a (T, C) matrix.

    Columns of the matrix are sorted by key, then by step. NaN marks a point that a trial does not have. Times are in
    milliseconds since 1970.
    """

    numbers: list[int]
    ids: list[str]
    params: dict[str, list[str]]
    tags: dict[str, list[str]]
    keys: list[str]  # (C,) metric key of each column
    steps: list[int]  # (C,) step of each column
    values: NDArray[np.float64]  # (T, C)
    started: NDArray[np.int64]  # (T,) start of each run
    ended: NDArray[np.int64]  # (T,)
    parts: NDArray[np.float64]  # (C,) share of the run that has passed at each column's step

    def __len__(self) -> int:
        """Return the number of trials."""
        return len(self.numbers)

    def name(self, index: int) -> str:
        """Return the name of a trial's run."""
        return f"trial {self.numbers[index]}"

    @cached_property
    def timestamps(self) -> NDArray[np.int64]:
        """The time of each point (T, C): the run's start at the first step, its end at the last, in between by step."""
        passed = (self.ended - self.started)[:, None] * self.parts
        return self.started[:, None] + passed.astype(np.int64)

    def metrics(self, index: int) -> Iterator[tuple[str, float, int, int]]:
        """Yield (key, value, step, timestamp) of the metric points of one trial."""
        for column in np.flatnonzero(np.isfinite(self.values[index])).tolist():
            value, timestamp = float(self.values[index, column]), int(self.timestamps[index, column])
            yield self.keys[column], value, self.steps[column], timestamp

    def groups(self) -> Iterator[tuple[str, int, int]]:
        """Yield (key, first column, end column) of each metric."""
        first = 0
        for column in range(1, len(self.keys) + 1):
            if column == len(self.keys) or self.keys[column] != self.keys[first]:
                yield self.keys[first], first, column
                first = column

    def split(self, parts: int) -> list[TrialRuns]:
        """Split the trials, in order, into at most ``parts`` parts of about equal size."""
        part = np.arange(len(self)) * parts // len(self)
        return [self.take(part == index) for index in np.unique(part)]

    def take(self, chosen: NDArray[np.bool_]) -> TrialRuns:
        """Return the trials selected by a (T,) mask."""
        if chosen.all():
            return self
        kept = np.flatnonzero(chosen).tolist()

        def some(texts: dict[str, list[str]]) -> dict[str, list[str]]:
            return {key: [column[i] for i in kept] for key, column in texts.items()}

        return replace(
            self,
            numbers=[self.numbers[i] for i in kept],
            ids=[self.ids[i] for i in kept],
            params=some(self.params),
            tags=some(self.tags),
            values=self.values[chosen],
            started=self.started[chosen],
            ended=self.ended[chosen],
        )


def trial_runs(
    table: pa.Table,
    steps: list[int],
    names: tuple[str, ...],
    sweep_id: str,
    points: int | None,
    sweep_started_ms: int = 0,
) -> TrialRuns:
    """Build the runs of the trials in rows of a shard file.

    Args:
        table: Rows of a shard file, with the columns STARTED and ENDED if the trials' times are known.
        steps: Steps of the curves.
        names: Model parameters to log.
        sweep_id: Id of the sweep.
        points: Maximum number of points per curve; None logs all.
        sweep_started_ms: Start of the sweep's run: the earliest time, and the one of trials without times.
    """
    starts = [name for name in table.column_names if name.startswith("init.")]
    options = [name for name in table.column_names if is_option(name)]
    params = {key: _texts(table[key], PARAM_LENGTH) for key in (*HYPERPARAMETERS, *options, "seed", *starts)}
    tags = {
        SWEEP_ID: [sweep_id] * len(table),
        TRIAL_ID: _texts(table["trial_id"], TAG_LENGTH),
        VERDICT: _texts(table["verdict"], TAG_LENGTH),
    }
    if PRUNED in table.column_names:
        tags[PRUNED_TAG] = ["true" if pruned else "false" for pruned in table[PRUNED].to_pylist()]
    elif "stopped_epoch" in table.column_names:
        tags[STOPPED_EARLY] = ["false" if epoch is None else "true" for epoch in table["stopped_epoch"].to_pylist()]
    keys, at, values = _points(table, steps, names, points)
    started, ended = (_times(table, name, sweep_started_ms) for name in (STARTED, ENDED))
    parts = (np.array(at, np.float64) - steps[0]) / max(1, steps[-1] - steps[0])
    return TrialRuns(table["trial"].to_pylist(), tags[TRIAL_ID], params, tags, keys, at, values, started, ended, parts)


def expected_runs(sweep: TrackedSweep, table: pa.Table, steps: list[int]) -> Iterator[LoggedRun]:
    """Yield the runs that must be logged for the rows of a shard file, as Tracker.logged_runs() returns them."""
    names = sweep.parameter_names if len(sweep.parameter_names) <= MAX_FINAL_METRICS else ()
    runs = trial_runs(table, steps, names, sweep.sweep_id, sweep.config.tracking.points)
    for index in range(len(runs)):
        facts: dict[str, str | float] = {"status": "FINISHED", "verdict": runs.tags[VERDICT][index]}
        facts |= {f"param {key}": texts[index] for key, texts in runs.params.items()}
        facts |= {f"metric {key}": value for key, value, *_ in runs.metrics(index)}  # the last step wins
        yield LoggedRun("", runs.ids[index], facts)


def _points(
    table: pa.Table, steps: list[int], names: tuple[str, ...], points: int | None
) -> tuple[list[str], list[int], NDArray[np.float64]]:
    """Return keys, steps and values of the metric columns, sorted by key and step."""
    rows, last = len(table), steps[-1]
    blocks: dict[str, tuple[list[int], NDArray[np.float64]]] = {}
    curves = {key: key for key in ("loss", "validation_loss")} | {f"param.{name}": f"param/{name}" for name in names}
    for column, key in curves.items():
        if column in table.column_names:
            blocks[key] = _thinned(steps, matrix(table[column], rows).astype(np.float64), points)
    for key in (name for name in _FIGURES if name in table.column_names):
        figures = table[key].combine_chunks().cast(pa.float64()).to_numpy(zero_copy_only=False)
        blocks[key] = [last], figures.reshape(rows, 1)
    if names:
        final = matrix(table["final"], rows).astype(np.float64)
        blocks |= {f"final/{name}": ([last], final[:, j : j + 1]) for j, name in enumerate(names)}
    order = sorted(blocks)
    keys = [key for key in order for _ in blocks[key][0]]
    return keys, [step for key in order for step in blocks[key][0]], np.hstack([blocks[key][1] for key in order])


def _thinned(
    steps: list[int], values: NDArray[np.float64], points: int | None
) -> tuple[list[int], NDArray[np.float64]]:
    """Reduce each curve to at most ``points``: the first, the last finite one, and log-spaced steps in between."""
    if points is None or len(steps) <= points:
        return steps, values
    at = np.asarray(steps)
    wanted = np.concatenate([[0], np.geomspace(1, max(at[-1] - at[0], 1), points)[1:]]) + at[0]
    chosen = np.zeros(len(at), np.bool_)
    chosen[np.clip(np.searchsorted(at, np.rint(wanted)), 0, len(at) - 1)] = True
    chosen[-1] = True
    finite = np.isfinite(values)
    ends = len(at) - 1 - np.argmax(finite[:, ::-1], axis=1)
    # A curve that ends early keeps its last finite point instead of the last chosen point before it.
    before = np.array([np.flatnonzero(chosen[: end + 1])[-1] for end in range(len(at))])[ends]
    rows = np.arange(len(values))
    kept = np.where(chosen, values, np.nan)
    kept[rows[before > 0], before[before > 0]] = np.nan
    kept[rows, ends] = values[rows, ends]
    used = np.isfinite(kept).any(axis=0)
    return at[used].tolist(), kept[:, used]


def _times(table: pa.Table, name: str, earliest: int) -> NDArray[np.int64]:
    if name not in table.column_names:
        return np.full(len(table), earliest, np.int64)
    times: NDArray[np.int64] = np.maximum(table[name].to_numpy(), np.int64(earliest))
    return times


def _texts(column: Any, length: int) -> list[str]:
    return [str(value)[:length] for value in column.to_pylist()]
