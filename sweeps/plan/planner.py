"""Plan: which trials a sweep has, their ids, how they are packed into shards, and what was dropped or merged and why.

A plan is a formula, not a list: products of axes, from which any range of trials is computed when it is needed.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import overload

import numpy as np
from numpy.typing import NDArray

from sgdcore import Hyperparams, Recording, Task
from sgdcore.batches import steps_per_epoch
from sgdcore.recording import MAX_PATH_PARAMETERS
from sgdcore.tasks import ModuleModel
from sweeps.config.messages import key, listed
from sweeps.config.schema import HYPERPARAMETERS, SweepConfig
from sweeps.errors import ConfigError
from sweeps.search import grid
from sweeps.search.product import Block, FloatArray, Mask, TooManyOverlaps, disjoint

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
_MAX_COMBINATIONS = 10**12  # before any is dropped or merged
_MAX_VALUES = 20_000_000  # on all axes together: they are in memory
_MAX_AXES = 100_000  # of all mappings together
_MAX_PIECES = 2_000  # that overlapping mappings are cut into
_MAX_COMPARISONS = 20_000  # of overlapping mappings, two at a time: some seconds
MAX_POINTS = 1_000_000
_EXACT_POWER = 18  # of ten, up to which a number of combinations is worked out


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


@dataclass(frozen=True)
class Shards(Sequence[Shard]):
    """All shards of a plan, in order, each made when it is asked for."""

    trials: int
    trials_per_shard: int

    def __len__(self) -> int:
        """Number of shards."""
        return -(-self.trials // self.trials_per_shard)

    @overload
    def __getitem__(self, index: int) -> Shard: ...
    @overload
    def __getitem__(self, index: slice) -> list[Shard]: ...
    def __getitem__(self, index: int | slice) -> Shard | list[Shard]:
        """One shard, or some."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        place = range(len(self))[index]
        start = place * self.trials_per_shard
        return Shard(place, start, min(start + self.trials_per_shard, self.trials))


@dataclass(frozen=True, eq=False)
class Plan:
    """The trials of a sweep."""

    parameter_names: tuple[str, ...]
    starts: tuple[str, ...]  # the S parameters that can be given start values: all, or none of a large network
    blocks: tuple[Block, ...]  # no two of them share a row
    dropped: dict[str, int]
    merged: dict[str, int]
    trials_per_shard: int
    steps: int
    context: str  # digest of all that defines a trial besides its row: data, model, training
    module: str = ""  # package.module:callable that is imported and called; empty of the package's own models
    swept: tuple[str, ...] = field(default=())  # axes with more than one value, the widest first

    @cached_property
    def _offsets(self) -> NDArray[np.int64]:
        return np.cumsum([0, *map(len, self.blocks)], dtype=np.int64)

    def __len__(self) -> int:
        """Number of trials."""
        return int(self._offsets[-1])

    def shards(self) -> Shards:
        """All shards, in order."""
        return Shards(len(self), self.trials_per_shard)

    def trials(self, start: int, stop: int) -> Trials:
        """The trials with numbers start ... stop - 1."""
        first, last = np.searchsorted(self._offsets, [start, stop - 1], side="right") - 1
        parts = []
        for block, offset in zip(self.blocks[first : last + 1], self._offsets[first : last + 1].tolist(), strict=True):
            parts.append(block.rows(np.arange(max(start - offset, 0), min(stop - offset, len(block)), dtype=np.int64)))
        columns = {name: np.concatenate([part[name] for part in parts]) for name, _ in self.blocks[0].axes}
        return Trials(
            number=np.arange(start, stop, dtype=np.int64),
            seed=columns["seed"].astype(np.int64),
            hyperparams=Hyperparams(**{name: columns[name] for name in HYPERPARAMETERS}),
            start=np.array([columns[f"init.{name}"] for name in self.starts]).reshape(len(self.starts), -1).T
            if self.starts
            else np.empty((stop - start, 0)),
        )

    def ids(self, trials: Trials) -> list[str]:
        """Each trial's id: the hash of what defines it, the same in every sweep."""
        h = trials.hyperparams
        rows = np.column_stack([*(getattr(h, name) for name in HYPERPARAMETERS), trials.seed, trials.start])
        data, width = (rows + 0.0).tobytes(), rows.shape[1] * rows.itemsize
        keyed = hashlib.blake2b(key=bytes.fromhex(self.context), digest_size=16)
        ids = []
        for i in range(0, len(data), width):
            digest = keyed.copy()  # a third cheaper than a new one with the key
            digest.update(data[i : i + width])
            ids.append(digest.hexdigest())
        return ids

    def summary(self) -> dict[str, object]:
        """What plan.json and the terminal say."""
        return {
            "trials": len(self),
            "steps": self.steps,
            "shards": len(self.shards()),
            "trials_per_shard": self.trials_per_shard,
            "swept": list(self.swept),
            "parameters": list(self.parameter_names),
            "dropped": self.dropped,
            "merged": self.merged,
            **({"module": self.module} if self.module else {}),
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
    _check_expected(config, names, starts, where)
    dropped: dict[str, int] = {}
    merged: dict[str, int] = {}
    _check_combinations(config, starts, where)
    products = grid.blocks(config, starts)
    parts = [part for block in products for part in _normalise(block, config, dropped, merged)]
    blocks = _without_repeats(parts, merged, where)
    total = sum(map(len, blocks))
    if total > MAX_TRIALS:
        raise ConfigError(where, [f"parameters: {total:,} trials; at most {MAX_TRIALS:,} are allowed"])
    steps = config.training.epochs * steps_per_epoch(task.samples, config.training.batch_size)
    if config.record.spacing == "all" and steps > MAX_POINTS:
        raise ConfigError(
            where, [f"record.spacing: given 'all' for {steps:,} steps; at most {MAX_POINTS:,} are recorded"]
        )
    if total == 0:
        reasons = "; ".join(f"{count:,} dropped: {reason}" for reason, count in dropped.items() if count)
        raise ConfigError(where, [f"parameters: no trials are left ({reasons})"])
    widths = {name: len(_distinct(np.concatenate([b[name] for b in products]))) for name, _ in products[0].axes}
    return Plan(
        parameter_names=names,
        starts=starts,
        blocks=tuple(blocks),
        dropped={k: v for k, v in dropped.items() if v},
        merged={k: v for k, v in merged.items() if v},
        trials_per_shard=trials_per_shard
        or config.execution.trials_per_shard
        or _shard_size(config, task, total, steps, len(os.sched_getaffinity(0))),
        steps=steps,
        context=_context(config, task),
        module=getattr(config.task.model, "module", ""),
        swept=tuple(sorted((n for n, w in widths.items() if w > 1), key=lambda n: -widths[n])),
    )


def packed(plan: Plan, config: SweepConfig, task: Task, cores: int) -> Plan:
    """The same trials, in shards that feed so many cores, unless the config says how many go into one."""
    if config.execution.trials_per_shard is not None:
        return plan
    return replace(plan, trials_per_shard=_shard_size(config, task, len(plan), plan.steps, cores))


def _check_starts(config: SweepConfig, names: tuple[str, ...], starts: tuple[str, ...], where: str) -> None:
    given = sorted({n for m in config.mappings() for n in m if n.startswith("init.")})
    if given and not starts:
        problem = (
            f"start values are for networks of up to {MAX_PATH_PARAMETERS} parameters; this one has {len(names):,}"
        )
        raise ConfigError(where, [f"parameters.{name}: {problem}" for name in given])
    unknown = [name for name in given if not grid.meant(name, starts)]
    if unknown:
        problem = f"the model's parameters are {listed(names)}"
        raise ConfigError(where, [f"parameters.{key(name)}: {problem}" for name in unknown])


def _check_expected(config: SweepConfig, names: tuple[str, ...], starts: tuple[str, ...], where: str) -> None:
    """A name that no trial has would fail the sweep after it has run."""
    problems = []
    for i, expected in enumerate(config.expected):
        given = [n for n in expected.where if n.startswith("init.") and not grid.meant(n, starts)]
        problems += [f"expected[{i}].where.{key(n)}: the start values are those of {listed(starts)}" for n in given]
        final = expected.final if isinstance(expected.final, dict) else {}
        unknown = [n for n in final if n not in names]
        problems += [f"expected[{i}].final.{key(n)}: the model's parameters are {listed(names)}" for n in unknown]
    if problems:
        raise ConfigError(where, problems)


def _check_combinations(config: SweepConfig, starts: tuple[str, ...], where: str) -> None:
    """From the axes' lengths alone, before any axis is made."""
    mappings = config.mappings()
    values = sum(len(axis) for mapping in mappings for axis in mapping.values())
    if values > _MAX_VALUES:
        raise ConfigError(where, [f"parameters: {values:,} values on all axes; at most {_MAX_VALUES:,} are allowed"])
    if (axes := len(mappings) * (len(HYPERPARAMETERS) + len(starts))) > _MAX_AXES:
        problem = f"parameters: {axes:,} axes in {len(mappings):,} mappings; at most {_MAX_AXES:,} are allowed"
        raise ConfigError(where, [problem])
    sizes = [[(len(axis), _meant(name, starts)) for name, axis in mapping.items()] for mapping in mappings]
    power = math.log10(len(config.seeds)) + max(sum(times * math.log10(n) for n, times in size) for size in sizes)
    if power > _EXACT_POWER:
        number, shown = math.inf, f"about 1e{math.floor(power + 1e-9)}"
    else:
        number = len(config.seeds) * sum(math.prod(n**times for n, times in size) for size in sizes)
        shown = f"{number:,}"
    if number > _MAX_COMBINATIONS:
        raise ConfigError(where, [f"parameters: {shown} combinations; at most {MAX_TRIALS:,} trials are allowed"])


def _meant(name: str, starts: tuple[str, ...]) -> int:
    """How many axes of a product a named one makes."""
    return max(1, len(grid.meant(name, starts))) if name.startswith("init.") else 1


def _normalise(block: Block, config: SweepConfig, dropped: dict[str, int], merged: dict[str, int]) -> list[Block]:
    """Split a product into products of distinct trials that torch.optim.SGD accepts, counting what falls away."""

    def count(tally: dict[str, int], reason: str, number: int) -> None:
        tally[reason] = tally.get(reason, 0) + number

    if config.training.order == "sequential" and not _drawn(block, config) and len(block["seed"]) >= 1:
        single = block.replace("seed", np.zeros(1))
        count(merged, NO_SEED, len(block) - len(single))
        block = single
    unique = Block(tuple((name, _distinct(values)) for name, values in block.axes))
    count(merged, SAME_VALUE, len(block) - len(unique))
    ahead, plain = unique.split("nesterov", _nonzero)
    ahead, without = ahead.split("momentum", _nonzero)
    count(dropped, NEEDS_MOMENTUM, len(without))
    damped, ahead = ahead.split("dampening", _nonzero)
    count(dropped, NEEDS_ZERO_DAMPENING, len(damped))
    heavy, still = plain.split("momentum", _nonzero)
    undamped = still.replace("dampening", np.zeros(1))
    count(merged, NO_DAMPENING, len(still) - len(undamped) if len(still) else 0)
    return [part for part in (undamped, heavy, ahead) if len(part)]


def _drawn(block: Block, config: SweepConfig) -> bool:
    """Whether some start value comes from torch's initialisation, hence from the seed."""
    starts = [values for name, values in block.axes if name.startswith("init.")]
    unset = not starts or any(np.isnan(values).any() for values in starts)
    return unset and config.task.model.init == "torch"


def _nonzero(values: FloatArray) -> Mask:
    return np.not_equal(values, 0)


def _distinct(values: FloatArray) -> FloatArray:
    """The values, each where it stands first."""
    if (np.diff(values) > 0).all():
        return values
    return values[np.sort(np.unique(values, return_index=True)[1])]


def _without_repeats(blocks: list[Block], merged: dict[str, int], where: str) -> list[Block]:
    """The same trials, each once: a product without other products is again some products."""
    kept: list[Block] = []
    try:
        for block, pieces in zip(blocks, disjoint(blocks, _MAX_COMPARISONS), strict=True):
            if again := len(block) - sum(map(len, pieces)):
                merged[SAME_TRIAL] = merged.get(SAME_TRIAL, 0) + again
            kept += pieces
            if len(kept) > len(blocks) + _MAX_PIECES:
                problem = f"parameters: the mappings overlap in more than {_MAX_PIECES:,} pieces; overlap fewer"
                raise ConfigError(where, [problem])
    except TooManyOverlaps as error:
        problem = "parameters: too many of the mappings lie across each other; make fewer, or ranges that lie apart"
        raise ConfigError(where, [problem]) from error
    return kept


def _shard_size(config: SweepConfig, task: Task, trials: int, steps: int, cores: int) -> int:
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
    by_cores = math.ceil(trials / max(1, cores))
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
