"""The plan of a sweep: any range of its trials, with their ids, is computed on demand."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sgdcore import Hyperparams
from sweeps.config.schema import BATCH_SIZE, FOLD, HYPERPARAMETERS
from sweeps.planning.identity import changed
from sweeps.planning.settings import NO_OPTIONS, Options
from sweeps.planning.shards import Shards
from sweeps.search.base import FloatArray, TrialSet

# How this version computes the points of ranges (sweeps.config.ranges). Earlier ones, which did not say, used numpy.
DECIMAL_RANGES = "decimal"
ADDED_COLUMNS = ("best_epoch",)  # columns of shard files, and metrics of MLflow, that version 0.1.0 did not have


@dataclass(frozen=True, eq=False)
class Trials:
    """T trials of a plan, as columns."""

    number: NDArray[np.int64]  # (T,) index of the trial in the plan
    seed: NDArray[np.int64]
    hyperparams: Hyperparams
    start: FloatArray  # (T, S), NaN for values of the model's own initialisation
    options: Mapping[str, FloatArray]  # the other columns, as in SearchSpace.options

    def __len__(self) -> int:
        """Return the number of trials T."""
        return len(self.number)

    def take(self, rows: NDArray[np.int64]) -> Trials:
        """Return the trials at these rows."""
        options = {name: values[rows] for name, values in self.options.items()}
        return Trials(self.number[rows], self.seed[rows], self.hyperparams[rows], self.start[rows], options)


@dataclass(frozen=True, eq=False)
class PlanStage:
    """The trials of one stage, packed into shards.

    Args:
        trials: sets of trials that have no rows in common.
        trials_per_shard: the number of trials per shard; the last one can have fewer.
        dropped: combinations that torch.optim.SGD rejects, counted by reason.
        merged: combinations that are the same trial as another one, counted by reason.
        swept: the axes with more than one value, the widest first.
        parts: the numbers of trials of one batch size each, in order; empty if all have the same. No shard has trials
            of two parts.
    """

    trials: tuple[TrialSet, ...]
    trials_per_shard: int
    dropped: dict[str, int] = field(default_factory=dict)
    merged: dict[str, int] = field(default_factory=dict)
    swept: tuple[str, ...] = ()
    parts: tuple[int, ...] = ()

    def __len__(self) -> int:
        """Return the number of trials."""
        return sum(map(len, self.trials))

    @property
    def packs(self) -> tuple[tuple[int, int], ...]:
        """The number of trials of each part, and the most trials of its shards."""
        return tuple((trials, self.trials_per_shard) for trials in self.parts or (len(self),))


@dataclass(frozen=True, eq=False)
class Plan:
    """The trials of a sweep, numbered from 0 through all its stages."""

    parameter_names: tuple[str, ...]
    starts: tuple[str, ...]  # the S parameters that can be given start values: all, or none for a large network
    stages: tuple[PlanStage, ...]  # stages planned so far; a grid has one
    steps: int  # of a trial, with several batch sizes the most
    context: str  # digest of everything that defines a trial apart from its row: data, model, training
    has_weight_decay: bool = False  # whether any trial of any stage can have weight decay
    module: str = ""  # package.module:callable to import; empty for built-in models
    options: Options = NO_OPTIONS  # what the columns beyond the hyperparameters mean
    folds: tuple[str, ...] = ()  # the digest of each fold's data
    identity: Mapping[str, Any] = field(default_factory=dict)  # the document whose digest is the context

    @cached_property
    def trial_sets(self) -> tuple[TrialSet, ...]:
        """The sets of trials of all stages, in order."""
        return tuple(trials for stage in self.stages for trials in stage.trials)

    @cached_property
    def _offsets(self) -> NDArray[np.int64]:
        return np.cumsum([0, *map(len, self.trial_sets)], dtype=np.int64)

    @property
    def swept(self) -> tuple[str, ...]:
        """The axes with more than one value in any stage."""
        return tuple(dict.fromkeys(name for stage in self.stages for name in stage.swept))

    @property
    def dropped(self) -> Counter[str]:
        """Combinations that torch.optim.SGD rejects, counted by reason."""
        return sum((Counter(stage.dropped) for stage in self.stages), Counter())

    @property
    def merged(self) -> Counter[str]:
        """Combinations that are the same trial as another one, counted by reason."""
        return sum((Counter(stage.merged) for stage in self.stages), Counter())

    @property
    def trials_per_shard(self) -> int:
        """The number of trials per shard in the first stage."""
        return self.stages[0].trials_per_shard

    def with_stage(self, stage: PlanStage) -> Plan:
        """Return the plan with another stage after the last."""
        return replace(self, stages=(*self.stages, stage))

    def __len__(self) -> int:
        """Return the number of trials."""
        return int(self._offsets[-1])

    def shards(self) -> Shards:
        """Return all shards, in order."""
        return Shards(tuple(pack for stage in self.stages for pack in stage.packs))

    def trials(self, start: int, stop: int) -> Trials:
        """Return the trials with numbers start ... stop - 1."""
        first, last = np.searchsorted(self._offsets, [start, stop - 1], side="right") - 1
        parts = []
        for rows, offset in zip(
            self.trial_sets[first : last + 1], self._offsets[first : last + 1].tolist(), strict=True
        ):
            parts.append(rows.rows(np.arange(max(start - offset, 0), min(stop - offset, len(rows)), dtype=np.int64)))
        columns = {name: np.concatenate([part[name] for part in parts]) for name in self.trial_sets[0].names}
        return Trials(
            number=np.arange(start, stop, dtype=np.int64),
            seed=columns["seed"].astype(np.int64),
            hyperparams=self.options.hyperparams(columns),
            start=np.array([columns[f"init.{name}"] for name in self.starts]).reshape(len(self.starts), -1).T
            if self.starts
            else np.empty((stop - start, 0)),
            options={name: columns[name] for name in self.options.names},
        )

    def ids(self, trials: Trials) -> list[str]:
        """Return each trial's id, the hash of everything that defines it, which is the same in every sweep."""
        h = trials.hyperparams
        rows = np.column_stack([*(getattr(h, name) for name in HYPERPARAMETERS), trials.seed, trials.start])
        data, width = (rows + 0.0).tobytes(), rows.shape[1] * rows.itemsize
        contexts, which = self._contexts(trials)
        keyed = [hashlib.blake2b(key=bytes.fromhex(context), digest_size=16) for context in contexts]
        in_context = (FOLD, BATCH_SIZE, *(name for name in trials.options if name.startswith("schedule.")))
        own = {name: values for name, values in trials.options.items() if name not in in_context}
        ids = []
        for row, (i, context) in enumerate(zip(range(0, len(data), width), which.tolist(), strict=True)):
            digest = keyed[context].copy()  # a third faster than a new keyed hash
            digest.update(data[i : i + width])
            for name, values in own.items():
                if np.isfinite(values[row]) and not self._is_inherited(name, values[row], trials, row):
                    digest.update(f"{name}={float(values[row])!r};".encode())
            ids.append(digest.hexdigest())
        return ids

    def _contexts(self, trials: Trials) -> tuple[list[str], NDArray[np.intp]]:
        """Return the distinct contexts of trials, and each trial's index among them.

        A batch size or a number of the schedule defines a trial in the same way whether it is an axis or stands in the
        sweep file.
        """
        if not any(name in (FOLD, BATCH_SIZE) or name.startswith("schedule.") for name in self.options.names):
            return [self.context], np.zeros(len(trials), dtype=np.intp)
        schedules, of_schedule = self.options.schedules({**trials.options, "lr": trials.hyperparams.lr})
        none = np.full(len(trials), -1)
        keys = of_schedule if schedules else none, *(trials.options.get(name, none) for name in (BATCH_SIZE, FOLD))
        distinct, which = np.unique(np.array(keys, dtype=np.int64), axis=1, return_inverse=True)
        contexts = [
            changed(
                self.identity,
                schedule=schedules[index] if index >= 0 else None,
                batch_size=size if size >= 0 else None,
                data=self.folds[fold] if fold >= 0 else None,
            )
            for index, size, fold in distinct.T.tolist()
        ]
        return contexts, which.reshape(-1).astype(np.intp)

    def _is_inherited(self, name: str, value: float, trials: Trials, row: int) -> bool:
        """Return whether a group's value is the default group's."""
        hyperparameter, _, group = name.partition(".")
        return bool(group) and value == getattr(trials.hyperparams, hyperparameter)[row]

    def summary(self) -> dict[str, object]:
        """Return the summary of the first stage for plan.json and ``sweeps plan``."""
        first = self.stages[0]
        return {
            "trials": len(first),
            "steps": self.steps,
            "shards": len(Shards(first.packs)),
            "trials_per_shard": first.trials_per_shard,
            **({"parts": list(first.parts)} if first.parts else {}),
            "swept": list(first.swept),
            "parameters": list(self.parameter_names),
            "dropped": first.dropped,
            "merged": first.merged,
            **({"module": self.module} if self.module else {}),
            "context": self.context,
            "ranges": DECIMAL_RANGES,
            "added": list(ADDED_COLUMNS),
        }
