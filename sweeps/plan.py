"""Plan: which trials a sweep has, their ids, how they are packed into shards, and what was dropped or merged and why.

A plan is a formula, not a list: products of axes, from which any range of trials is computed when it is needed.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from sgdcore import Hyperparams, Recording, Task
from sgdcore.batches import steps_per_epoch
from sgdcore.recording import MAX_PATH_PARAMETERS
from sgdcore.tasks import ModuleModel
from sweeps.config import HYPERPARAMETERS, SweepConfig
from sweeps.errors import ConfigError
from sweeps.search import grid
from sweeps.search.block import Block, FloatArray

NEEDS_MOMENTUM = "nesterov needs a momentum"
NEEDS_ZERO_DAMPENING = "nesterov needs zero dampening"
NO_DAMPENING = "dampening has no effect without momentum"
NO_SEED = "the seed has no effect: sequential order and given start values"
SAME_VALUE = "a value stands twice on its axis"
SAME_TRIAL = "the same trial in more than one mapping"

_SECONDS_PER_SHARD = 1.0
_FLOPS_PER_SECOND = 4e9  # of one core, reached by the kernel; only sizes the shards
_SHARD_BYTES = 64e6
_LEAST_PACK = 64
MAX_TRIALS = 10**9
MAX_POINTS = 1_000_000


@dataclass(frozen=True, eq=False)
class Trials:
    """Some trials of a plan, as columns of T rows."""

    number: NDArray[np.int64]  # the trial's place in the plan
    seed: NDArray[np.int64]
    hyperparams: Hyperparams
    start: FloatArray  # (T, S), NaN where the model's own initialisation starts

    def __len__(self) -> int:
        """Number of trials T."""
        return len(self.number)

    def take(self, rows: NDArray[np.int64]) -> Trials:
        """Some of them."""
        return Trials(self.number[rows], self.seed[rows], self.hyperparams[rows], self.start[rows])


@dataclass(frozen=True)
class Shard:
    """A range of the plan's trials that is run and stored as one."""

    index: int
    start: int
    stop: int
    rows: NDArray[np.int64] | None = field(default=None, compare=False)  # only these of its trials are run; None is all

    def __len__(self) -> int:
        """Number of trials."""
        return self.stop - self.start


@dataclass(frozen=True, eq=False)
class Plan:
    """The trials of a sweep."""

    parameter_names: tuple[str, ...]
    starts: tuple[str, ...]  # the S parameters that can be given start values: all, or none of a large network
    blocks: tuple[Block, ...]
    overlaps: tuple[NDArray[np.int64] | None, ...]  # rows kept of a block that shares rows with an earlier one
    dropped: dict[str, int]
    merged: dict[str, int]
    trials_per_shard: int
    steps: int
    context: str  # digest of all that defines a trial besides its row: data, model, training
    swept: tuple[str, ...] = field(default=())  # axes with more than one value, the widest first

    @cached_property
    def _offsets(self) -> NDArray[np.int64]:
        sizes = [len(b) if kept is None else len(kept) for b, kept in zip(self.blocks, self.overlaps, strict=True)]
        return np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)]).astype(np.int64)

    def __len__(self) -> int:
        """Number of trials."""
        return int(self._offsets[-1])

    def shards(self) -> list[Shard]:
        """All shards, in order."""
        size = self.trials_per_shard
        starts = range(0, len(self), size)
        return [Shard(i, start, min(start + size, len(self))) for i, start in enumerate(starts)]

    def trials(self, start: int, stop: int) -> Trials:
        """The trials with numbers start ... stop - 1."""
        numbers = np.arange(start, stop, dtype=np.int64)
        parts = []
        for i, (block, kept) in enumerate(zip(self.blocks, self.overlaps, strict=True)):
            low, high = np.searchsorted(numbers, self._offsets[i : i + 2])
            rows = numbers[low:high] - self._offsets[i]
            parts.append(block.rows(rows if kept is None else kept[rows]))
        columns = {name: np.concatenate([part[name] for part in parts]) for name, _ in self.blocks[0].axes}
        return Trials(
            number=numbers,
            seed=columns["seed"].astype(np.int64),
            hyperparams=Hyperparams(**{name: columns[name] for name in HYPERPARAMETERS}),
            start=np.array([columns[f"init.{name}"] for name in self.starts]).reshape(len(self.starts), -1).T
            if self.starts
            else np.empty((len(numbers), 0)),
        )

    def ids(self, trials: Trials) -> list[str]:
        """Each trial's id: the hash of what defines it, the same in every sweep."""
        h = trials.hyperparams
        rows = np.column_stack([*(getattr(h, name) for name in HYPERPARAMETERS), trials.seed, trials.start])
        key = bytes.fromhex(self.context)
        return [hashlib.blake2b(row.tobytes(), key=key, digest_size=16).hexdigest() for row in rows + 0.0]

    def summary(self) -> dict[str, object]:
        """What plan.json and the terminal say."""
        return {
            "trials": len(self),
            "steps": self.steps,
            "shards": math.ceil(len(self) / self.trials_per_shard),
            "trials_per_shard": self.trials_per_shard,
            "swept": list(self.swept),
            "parameters": list(self.parameter_names),
            "dropped": self.dropped,
            "merged": self.merged,
            "context": self.context,
        }


def make_plan(config: SweepConfig, task: Task, where: str = "config", trials_per_shard: int | None = None) -> Plan:
    """The plan of a sweep.

    Args:
        config: the sweep.
        task: what it trains.
        where: what messages call it.
        trials_per_shard: by default what the config says, or what suits the work and this machine's cores.

    Raises:
        ConfigError: an init.* axis for a parameter that the model does not have, no trials left, or too many.
    """
    names = task.parameter_names
    starts = names if task.model.linear or len(names) <= MAX_PATH_PARAMETERS else ()
    _check_starts(config, names, starts, where)
    dropped: dict[str, int] = {}
    merged: dict[str, int] = {}
    products = grid.blocks(config, starts)
    blocks = [part for block in products for part in _normalise(block, config, dropped, merged)]
    if math.fsum(map(len, blocks)) > MAX_TRIALS:
        raise ConfigError(where, [f"parameters: {sum(map(len, blocks)):,} trials; at most {MAX_TRIALS:,} are allowed"])
    overlaps = _overlaps(blocks, merged)
    steps = config.training.epochs * steps_per_epoch(task.samples, config.training.batch_size)
    if config.record.spacing == "all" and steps > MAX_POINTS:
        raise ConfigError(
            where, [f"record.spacing: given 'all' for {steps:,} steps; at most {MAX_POINTS:,} are recorded"]
        )
    total = sum(len(b) if kept is None else len(kept) for b, kept in zip(blocks, overlaps, strict=True))
    if total == 0:
        reasons = "; ".join(f"{count:,} dropped: {reason}" for reason, count in dropped.items() if count)
        raise ConfigError(where, [f"parameters: no trials are left ({reasons})"])
    widths = {name: len({v for b in products for v in b[name]}) for name, _ in products[0].axes}
    return Plan(
        parameter_names=names,
        starts=starts,
        blocks=tuple(blocks),
        overlaps=tuple(overlaps),
        dropped={k: v for k, v in dropped.items() if v},
        merged={k: v for k, v in merged.items() if v},
        trials_per_shard=trials_per_shard
        or config.execution.trials_per_shard
        or _shard_size(config, task, total, steps),
        steps=steps,
        context=_context(config, task),
        swept=tuple(sorted((n for n, w in widths.items() if w > 1), key=lambda n: -widths[n])),
    )


def _check_starts(config: SweepConfig, names: tuple[str, ...], starts: tuple[str, ...], where: str) -> None:
    given = sorted({n for m in config.mappings() for n in m if n.startswith("init.")})
    if given and not starts:
        problem = (
            f"start values are for networks of up to {MAX_PATH_PARAMETERS} parameters; this one has {len(names):,}"
        )
        raise ConfigError(where, [f"parameters.{name}: {problem}" for name in given])
    unknown = [name for name in given if not grid.meant(name, starts)]
    if unknown:
        raise ConfigError(
            where, [f"parameters.{name}: the model's parameters are {', '.join(names)}" for name in unknown]
        )


def _normalise(block: Block, config: SweepConfig, dropped: dict[str, int], merged: dict[str, int]) -> list[Block]:
    """Split a product into products of distinct trials that torch.optim.SGD accepts, counting what falls away."""

    def count(tally: dict[str, int], reason: str, number: int) -> None:
        tally[reason] = tally.get(reason, 0) + number

    if config.training.order == "sequential" and not _drawn(block, config) and len(block["seed"]) >= 1:
        single = block.replace("seed", (0.0,))
        count(merged, NO_SEED, len(block) - len(single))
        block = single
    unique = Block(tuple((name, tuple(dict.fromkeys(values))) for name, values in block.axes))
    count(merged, SAME_VALUE, len(block) - len(unique))
    ahead, plain = unique.split("nesterov", bool)
    ahead, without = ahead.split("momentum", bool)
    count(dropped, NEEDS_MOMENTUM, len(without))
    damped, ahead = ahead.split("dampening", bool)
    count(dropped, NEEDS_ZERO_DAMPENING, len(damped))
    heavy, still = plain.split("momentum", bool)
    undamped = still.replace("dampening", (0.0,))
    count(merged, NO_DAMPENING, len(still) - len(undamped) if len(still) else 0)
    return [part for part in (undamped, heavy, ahead) if len(part)]


def _drawn(block: Block, config: SweepConfig) -> bool:
    """Whether some start value comes from torch's initialisation, hence from the seed."""
    starts = [values for name, values in block.axes if name.startswith("init.")]
    unset = not starts or any(math.isnan(v) for values in starts for v in values)
    return unset and config.task.model.init == "torch"


def _overlaps(blocks: list[Block], merged: dict[str, int]) -> list[NDArray[np.int64] | None]:
    kept: list[NDArray[np.int64] | None] = []
    for i, block in enumerate(blocks):
        earlier = [other for other in blocks[:i] if other.meets(block)]
        if not earlier:
            kept.append(None)
            continue
        rows = np.arange(len(block), dtype=np.int64)
        columns = block.rows(rows)
        again = np.logical_or.reduce([other.contains(columns) for other in earlier])
        merged[SAME_TRIAL] = merged.get(SAME_TRIAL, 0) + int(again.sum())
        kept.append(rows[~again])
    return kept


def _shard_size(config: SweepConfig, task: Task, trials: int, steps: int) -> int:
    """Trials for some seconds of work on one core, few enough to feed every core and to fit in memory."""
    parameters = len(task.parameter_names)
    batch = min(config.training.batch_size, task.samples)
    points = len(Recording(config.record.points, config.record.spacing).steps(0, steps))
    evaluation = 50 * parameters**2 if task.is_quadratic else 2 * parameters * task.samples
    flops = steps * (6 * batch + 12) * parameters + points * evaluation
    size = 8 * points * (2 + (parameters if parameters <= MAX_PATH_PARAMETERS else 0)) + 8 * parameters + 200
    by_time = int(_SECONDS_PER_SHARD * _FLOPS_PER_SECOND / max(flops, 1))
    if not task.is_quadratic:
        by_time = max(by_time, _LEAST_PACK)  # a step of a pack costs nearly the same for one trial
    by_memory = int(_SHARD_BYTES / size)
    by_cores = math.ceil(trials / len(os.sched_getaffinity(0)))
    return max(1, min(by_time, by_memory, by_cores))


def _context(config: SweepConfig, task: Task) -> str:
    model = config.task.model.model_dump(mode="json")
    if isinstance(task.model, ModuleModel):
        model["source"] = task.model.source_digest
    training = config.training.model_dump(mode="json", exclude={"device", "compile"})
    document: dict[str, object] = {
        "data": task.dataset.digest,
        "model": model,
        "loss": config.task.loss,
        "training": training,
    }
    if config.task.loss == "huber":
        document["huber_delta"] = config.task.huber_delta
    return hashlib.blake2b(json.dumps(document, sort_keys=True).encode(), digest_size=16).hexdigest()
