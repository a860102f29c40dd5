"""Schedule: the learning rate of every step, equal to torch.optim.lr_scheduler's to the last bit.

A row of a schedule is an epoch or a step; :mod:`sgdcore.schedule_rows` computes them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from sgdcore.errors import InvalidHyperparams
from sgdcore.schedule_recursion import FloatArray
from sgdcore.schedule_rows import ScheduleRows

if TYPE_CHECKING:
    import torch

Interval = Literal["epoch", "step"]
REQUIRED = object()
# Options by kind with torch's defaults. Those of _LENGTHS may be None: the rest of the run.
OPTIONS: dict[str, dict[str, Any]] = {
    "constant": {"factor": 1 / 3, "total_iters": 5},
    "step": {"step_size": REQUIRED, "gamma": 0.1},
    "multistep": {"milestones": REQUIRED, "gamma": 0.1},
    "exponential": {"gamma": REQUIRED},
    "linear": {"start_factor": 1 / 3, "end_factor": 1.0, "total_iters": 5},
    "cosine": {"T_max": None, "eta_min": 0.0},
    "cosine_restarts": {"T_0": REQUIRED, "T_mult": 1, "eta_min": 0.0},
    "polynomial": {"total_iters": 5, "power": 1.0},
    "onecycle": {
        "max_lr": None,
        "total_steps": None,
        "pct_start": 0.3,
        "anneal_strategy": "cos",
        "cycle_momentum": True,
        "base_momentum": 0.85,
        "max_momentum": 0.95,
        "div_factor": 25.0,
        "final_div_factor": 1e4,
        "three_phase": False,
    },
}
_LENGTHS = {  # the option that says how many rows a scheduler takes, if it has an end
    "constant": "total_iters",
    "linear": "total_iters",
    "cosine": "T_max",
    "cosine_restarts": "T_0",
    "polynomial": "total_iters",
    "onecycle": "total_steps",
}
_COUNTS = ("total_iters", "step_size", "T_max", "T_0", "T_mult", "total_steps")
# The allowed values of numbers: a test and its words.
_AT_LEAST_0: tuple[Callable[[float], bool], str] = (lambda value: value >= 0, "at least 0")
_ABOVE_0: tuple[Callable[[float], bool], str] = (lambda value: value > 0, "above 0")
_FACTOR: tuple[Callable[[float], bool], str] = (lambda value: 0 < value <= 1, "above 0 and at most 1")
_SHARE: tuple[Callable[[float], bool], str] = (lambda value: 0 <= value <= 1, "from 0 to 1")
_RANGES = {
    "factor": _FACTOR,
    "start_factor": _FACTOR,
    "end_factor": _SHARE,
    "gamma": _ABOVE_0,
    "eta_min": _AT_LEAST_0,
    "power": _AT_LEAST_0,
    "max_lr": _ABOVE_0,
    "pct_start": _SHARE,
    "base_momentum": _ABOVE_0,
    "max_momentum": _ABOVE_0,
    "div_factor": _ABOVE_0,
    "final_div_factor": _ABOVE_0,
}


@dataclass(frozen=True, init=False)
class Scheduler:
    """One scheduler of torch.optim.lr_scheduler with torch's keyword names.

    Args:
        kind: constant, step, multistep, exponential, linear, cosine, cosine_restarts, polynomial or onecycle.
        options: torch's keyword arguments, with torch's defaults. ``T_max`` of cosine and ``total_steps`` of onecycle
            default to the rest of the run, and onecycle's ``max_lr`` to the trial's lr.

    Raises:
        InvalidHyperparams: an unknown kind or option, or a value that torch rejects.
    """

    kind: str
    options: tuple[tuple[str, Any], ...]

    def __init__(self, kind: str, **options: Any) -> None:
        if kind not in OPTIONS:
            raise InvalidHyperparams(f"kind of schedule must be one of {', '.join(OPTIONS)}, not {kind!r}")
        known = OPTIONS[kind]
        for name in options:
            if name not in known:
                raise InvalidHyperparams(f"{kind} has no option {name!r}: its options are {', '.join(known)}")
        for name, default in known.items():
            if default is REQUIRED and name not in options:
                raise InvalidHyperparams(f"{kind} needs {name}")
        full = {name: _checked(kind, name, options.get(name, default), default) for name, default in known.items()}
        object.__setattr__(self, "kind", kind)
        object.__setattr__(self, "options", tuple(full.items()))

    def __getitem__(self, name: str) -> Any:
        """Return an option."""
        return dict(self.options)[name]

    @property
    def length(self) -> int | None:
        """The number of rows that it takes; None if it has no end or ends with the run."""
        return self[_LENGTHS[self.kind]] if self.kind in _LENGTHS else None

    @property
    def cycles_momentum(self) -> bool:
        """Whether it changes the momentum, too."""
        return self.kind == "onecycle" and bool(self["cycle_momentum"])

    def lasting(self, rows: int) -> Scheduler:
        """Return it with the number of rows that it takes, if that is the rest of a run of ``rows``."""
        name = _LENGTHS.get(self.kind)
        if name is None or self[name] is not None:
            return self
        return Scheduler(self.kind, **{**dict(self.options), name: max(1, rows)})


@dataclass(frozen=True, init=False)
class Schedule:
    """A scheduler, or several in sequence as in torch's SequentialLR.

    Args:
        schedulers: in order.
        milestones: the row at which each scheduler but the first starts. By default each takes as many rows as its
            ``total_iters``, ``T_max`` or ``T_0``.
        interval: whether a row is an epoch or a step.

    Raises:
        InvalidHyperparams: milestones that do not fit the schedulers.

    Example:
        >>> Schedule(Scheduler("linear", total_iters=5), Scheduler("cosine", T_max=45)).milestones
        (5,)
    """

    schedulers: tuple[Scheduler, ...]
    milestones: tuple[int, ...]
    interval: Interval

    def __init__(
        self, *schedulers: Scheduler, milestones: tuple[int, ...] | None = None, interval: Interval = "epoch"
    ) -> None:
        if not schedulers:
            raise InvalidHyperparams("a schedule needs at least one scheduler")
        if interval not in ("epoch", "step"):
            raise InvalidHyperparams(f"interval must be epoch or step, not {interval!r}")
        if len(schedulers) > 1 and any(scheduler.kind == "onecycle" for scheduler in schedulers):
            raise InvalidHyperparams("onecycle is a whole schedule: it cannot follow or precede another one")
        starts = _milestones(schedulers) if milestones is None else tuple(milestones)
        if len(starts) != len(schedulers) - 1 or any(b <= a for a, b in pairwise((0, *starts))):
            raise InvalidHyperparams(
                f"milestones must be {len(schedulers) - 1} increasing rows above 0 for {len(schedulers)} schedulers, "
                f"not {list(starts)}"
            )
        object.__setattr__(self, "schedulers", tuple(schedulers))
        object.__setattr__(self, "milestones", starts)
        object.__setattr__(self, "interval", interval)

    @property
    def cycles_momentum(self) -> bool:
        """Whether it changes the momentum, too."""
        return self.schedulers[0].cycles_momentum

    def lasting(self, rows: int) -> Schedule:
        """Return the schedule of a run of ``rows``, with the lengths that the run decides.

        Raises:
            InvalidHyperparams: a onecycle schedule is shorter than the run.
        """
        starts = (0, *self.milestones)
        parts = [part.lasting(rows - start) for part, start in zip(self.schedulers, starts, strict=True)]
        if parts[0].kind == "onecycle":
            total, rise = parts[0]["total_steps"], parts[0]["pct_start"]
            if total < rows:
                raise InvalidHyperparams(f"onecycle: total_steps must be at least the run's {rows}, not {total}")
            if rise * total == 1:  # torch divides by the length of the rise, 0
                raise InvalidHyperparams(f"onecycle: pct_start {rise:g} of {total} steps must be more than one step")
        return Schedule(*parts, milestones=self.milestones, interval=self.interval)

    def rows(self, lr: FloatArray) -> ScheduleRows:
        """Return the rows of these base learning rates; the schedule must know its length: see :meth:`lasting`."""
        parts = [(part.kind, dict(part.options)) for part in self.schedulers]
        return ScheduleRows(parts, self.milestones, np.asarray(lr, np.float64).reshape(-1))

    def torch_scheduler(self, optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
        """Return torch's own scheduler for an optimizer."""
        from torch.optim import lr_scheduler

        classes = {
            "constant": lr_scheduler.ConstantLR,
            "step": lr_scheduler.StepLR,
            "multistep": lr_scheduler.MultiStepLR,
            "exponential": lr_scheduler.ExponentialLR,
            "linear": lr_scheduler.LinearLR,
            "cosine": lr_scheduler.CosineAnnealingLR,
            "cosine_restarts": lr_scheduler.CosineAnnealingWarmRestarts,
            "polynomial": lr_scheduler.PolynomialLR,
            "onecycle": lr_scheduler.OneCycleLR,
        }
        parts = []
        for part in self.schedulers:
            options = dict(part.options)
            if part.kind == "onecycle" and options["max_lr"] is None:
                options["max_lr"] = [group["lr"] for group in optimizer.param_groups]
            parts.append(classes[part.kind](optimizer, **options))
        return parts[0] if len(parts) == 1 else lr_scheduler.SequentialLR(optimizer, parts, list(self.milestones))


def _checked(kind: str, name: str, value: Any, default: Any) -> Any:
    """Return an option's value in torch's type.

    Raises:
        InvalidHyperparams: torch rejects it, or divides by zero.
    """
    where = f"{kind}: {name} must be"
    if value is None and default is None:
        return None
    if name == "anneal_strategy":
        if value not in ("cos", "linear"):
            raise InvalidHyperparams(f"{where} cos or linear, not {value!r}")
        return value
    if isinstance(default, bool):
        if value not in (0, 1):
            raise InvalidHyperparams(f"{where} true or false, not {value!r}")
        return bool(value)
    if name == "milestones":
        rows = list(value) if isinstance(value, list | tuple) else [value]
        if not rows or not all(_is_count(row) for row in rows):
            raise InvalidHyperparams(f"{where} a list of whole numbers >= 1, not {value!r}")
        return tuple(int(row) for row in rows)
    if name in _COUNTS:
        if not _is_count(value):
            raise InvalidHyperparams(f"{where} a whole number >= 1, not {value!r}")
        return int(value)
    test, words = _RANGES[name]
    if isinstance(value, bool) or not isinstance(value, int | float | np.number) or not math.isfinite(value):
        raise InvalidHyperparams(f"{where} a finite number, not {value!r}")
    if not test(float(value)):
        raise InvalidHyperparams(f"{where} {words}, not {value!r}")
    return float(value)


def _is_count(value: Any) -> bool:
    number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    return number and math.isfinite(value) and value >= 1 and value == int(value)


def _milestones(schedulers: tuple[Scheduler, ...]) -> tuple[int, ...]:
    row, starts = 0, []
    for scheduler in schedulers[:-1]:
        if scheduler.length is None:
            raise InvalidHyperparams(f"{scheduler.kind} has no end: give milestones for what follows it")
        row += scheduler.length
        starts.append(row)
    return tuple(starts)
