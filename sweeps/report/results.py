"""Results: a sweep's stored shards as one table of trials, and the curves of a few of them on demand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from sgdcore.verdict import VERDICTS
from sweeps import config as sweep_file
from sweeps.columns import matrix
from sweeps.config import HYPERPARAMETERS, SweepConfig
from sweeps.store import SweepFiles

MAX_FINAL_COLUMNS = 16
_MADE_BY = ("kernel", "device", "prediction")
_STEPS = ("best_step", "first_nonfinite_step", "steps_to_tolerance", "peak_step")
_TEXTS = ("trial_id", "verdict", "overshoot_parameter")
_MEASURES = ("predicted_radius", "initial_loss", "final_loss", "best_loss", "overshoot_percent", "peak_value", "growth")


@dataclass(frozen=True, eq=False)
class Results:
    """What a sweep has brought so far; some shards, or all of them, may be missing."""

    files: SweepFiles
    config: SweepConfig
    manifest: dict[str, Any]  # plan.json
    metadata: dict[str, Any]  # steps, parameters, kernel, device, prediction
    trials: pd.DataFrame  # one row a trial: the shards' scalar columns, final.<name> and growth
    shard_starts: tuple[tuple[int, int], ...]  # (index, first trial) of each stored shard, in order

    @property
    def planned(self) -> int:
        """Number of trials in the plan."""
        return int(self.manifest.get("trials", len(self.trials)))

    @property
    def parameters(self) -> list[str]:
        """Names of the model's parameters."""
        return list(self.metadata["parameters"])

    @cached_property
    def axes(self) -> list[str]:
        """Parameters with more than one value among the stored trials, the widest first."""
        columns = [*HYPERPARAMETERS, *self.starts, "seed"]
        named = [c for c in self.manifest.get("swept", columns) if c in columns]
        widths = {c: self.trials[c].nunique() for c in named}
        return sorted((c for c in named if widths[c] > 1), key=lambda c: -widths[c])

    @cached_property
    def swept(self) -> list[str]:
        """The same, in the order of a table's columns: hyperparameters, start values, seed."""
        return [c for c in (*HYPERPARAMETERS, *self.starts, "seed") if c in self.axes]

    @cached_property
    def starts(self) -> list[str]:
        """The columns of start values."""
        return [name for name in map(str, self.trials) if name.startswith("init.")]

    @property
    def settled(self) -> pd.DataFrame:
        """The trials that neither diverged nor are diverging."""
        return self.trials[~self.trials["verdict"].isin(["diverging", "diverged"])]

    def curves(self, numbers: Sequence[int]) -> pd.DataFrame:
        """Curves of some trials: trial, step, loss, validation_loss and param.<name> where recorded, as rows a step.

        Values are NaN from the step at which a trial stopped. Only the shards that hold these trials are read.
        """
        frames = [self._curves_of(table) for table in self._tables(numbers, curves=True)]
        columns = ["trial", "step", "loss"]
        return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=columns, dtype=float)

    def final(self, numbers: Sequence[int]) -> dict[int, NDArray[Any]]:
        """Final parameters of some trials, in the run's own dtype; NaN where they are not finite."""
        found: dict[int, NDArray[Any]] = {}
        for table in self._tables(numbers, curves=False):
            values = matrix(table["final"], len(table))
            found |= dict(zip(table["trial"].to_pylist(), values, strict=True))
        return found

    def _tables(self, numbers: Sequence[int], *, curves: bool) -> list[pa.Table]:
        wanted = np.unique(np.asarray(numbers, dtype=np.int64))
        if not self.shard_starts or not len(wanted):
            return []
        starts = np.array([start for _, start in self.shard_starts])
        places = np.searchsorted(starts, wanted, side="right") - 1
        tables = []
        for place in np.unique(places[places >= 0]):
            index = self.shard_starts[place][0]
            columns = _curve_columns(self.files, index) if curves else ["trial", "final"]
            table = self.files.read_shard(index, columns)
            tables.append(table.filter(pa.array(np.isin(table["trial"].to_numpy(), wanted))))
        return [table for table in tables if len(table)]

    def _curves_of(self, table: pa.Table) -> pd.DataFrame:
        steps = np.asarray(self.metadata["steps"], dtype=np.int64)
        columns: dict[str, NDArray[Any]] = {
            "trial": np.repeat(table["trial"].to_numpy(), len(steps)),
            "step": np.tile(steps, len(table)),
        }
        columns |= {c: matrix(table[c], len(table)).ravel() for c in table.column_names if c != "trial"}
        return pd.DataFrame(columns)


def load(files: SweepFiles) -> Results:
    """Read a sweep's results, as far as they are stored.

    Raises:
        StoreError: a file of the sweep is damaged.
    """
    manifest = files.manifest()
    done = sorted(files.done())
    nothing = {"steps": [], "parameters": manifest.get("parameters", []), **dict.fromkeys(_MADE_BY)}
    metadata = files.metadata() if done else nothing
    names = list(metadata["parameters"])
    tables = {index: files.read_shard(index, _scalar_columns(files, index, names)) for index in done}
    return Results(
        files=files,
        config=sweep_file.load(files.config_path),
        manifest=manifest,
        metadata=metadata,
        trials=_frame(pa.concat_tables(tables.values()), names) if tables else _no_trials(names),
        shard_starts=tuple((index, table["trial"][0].as_py()) for index, table in tables.items() if len(table)),
    )


def _schema(files: SweepFiles, index: int) -> pa.Schema:
    return files.schema(index)


def _scalar_columns(files: SweepFiles, index: int, names: list[str]) -> list[str]:
    final = ["final"] if len(names) <= MAX_FINAL_COLUMNS else []
    return [field.name for field in _schema(files, index) if not pa.types.is_list(field.type)] + final


def _curve_columns(files: SweepFiles, index: int) -> list[str]:
    recorded = [field.name for field in _schema(files, index) if pa.types.is_list(field.type)]
    return ["trial", *(name for name in recorded if name != "final")]


def _frame(table: pa.Table, names: list[str]) -> pd.DataFrame:
    lists = [c for c in table.column_names if c == "final"]
    frame: pd.DataFrame = table.drop_columns(lists).to_pandas()
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        growth = frame["final_loss"].to_numpy() / frame["initial_loss"].to_numpy()
    final = matrix(table["final"], len(table)) if lists else np.empty((len(table), 0))
    added = {f"final.{name}": final[:, j] for j, name in enumerate(names) if lists}
    added["growth"] = np.where(np.isfinite(growth), growth, np.nan)
    return _typed(pd.concat([frame, pd.DataFrame(added)], axis=1))


def _no_trials(names: list[str]) -> pd.DataFrame:
    finals = [f"final.{name}" for name in names] if len(names) <= MAX_FINAL_COLUMNS else []
    numbers = [*HYPERPARAMETERS, *(f"init.{name}" for name in names), *_MEASURES, *finals]
    columns: dict[str, Any] = {"trial": pd.Series(dtype="int64"), "seed": pd.Series(dtype="int64")}
    columns |= {name: pd.Series(dtype="str") for name in _TEXTS}
    columns |= {name: pd.Series(dtype="float64") for name in (*numbers, *_STEPS)}
    return _typed(pd.DataFrame(columns))


def _typed(frame: pd.DataFrame) -> pd.DataFrame:
    frame["verdict"] = pd.Categorical(frame["verdict"], categories=VERDICTS)
    for name in _STEPS:
        frame[name] = frame[name].astype("Int64")
    return frame
