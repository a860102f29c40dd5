"""Hyperparams: what torch.optim.SGD and the loop around it are given, as columns, one row per trial.

These are the five hyperparameters, checked by torch's rules, those of parameter groups, clipping, and the schedule.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypedDict

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sgdcore.errors import InvalidHyperparams
from sgdcore.schedules import Schedule

NAMES = ("lr", "momentum", "weight_decay", "dampening", "nesterov")
CLIPS = ("clip_grad_norm", "clip_grad_value")


class SGDArguments(TypedDict):
    """One trial's hyperparameters as keyword arguments of torch.optim.SGD."""

    lr: float
    momentum: float
    weight_decay: float
    dampening: float
    nesterov: bool


@dataclass(frozen=True, eq=False, init=False)
class Hyperparams:
    """The hyperparameters of T trials.

    Scalars and arrays are broadcast against each other, so that
    ``Hyperparams(lr=[0.1, 0.01], momentum=0.9)`` is two trials.

    Args:
        lr: learning rates, >= 0.
        momentum: momentum factors, >= 0.
        weight_decay: L2 penalties, >= 0. The penalty is weight_decay/2 |p|^2 over all parameters.
        dampening: the share of each gradient after the first that is kept out of the momentum buffer.
        nesterov: use Nesterov momentum; needs a momentum and zero dampening.
        clip_grad_norm: the largest norm of all gradients together, as torch.nn.utils.clip_grad_norm_; inf: no limit.
        clip_grad_value: the largest absolute gradient, as torch.nn.utils.clip_grad_value_; inf: no limit. Where both
            are given, the norm is clipped first.
        schedule: a schedule for all trials, or T of them; None: a constant lr.
        groups: by name of a parameter group, the hyperparameters that differ from the others', as in
            ``groups={"bias": {"weight_decay": 0.0}}``. ``train(groups=...)`` says which parameters are in a group.

    All columns are float64 of shape (T,), nesterov is bool.

    Raises:
        InvalidHyperparams: a value that torch.optim.SGD rejects (same wording), or one that is not finite.
    """

    lr: NDArray[np.float64]
    momentum: NDArray[np.float64]
    weight_decay: NDArray[np.float64]
    dampening: NDArray[np.float64]
    nesterov: NDArray[np.bool_]
    clip_grad_norm: NDArray[np.float64]
    clip_grad_value: NDArray[np.float64]
    schedules: tuple[Schedule | None, ...]  # distinct
    schedule_of: NDArray[np.intp]  # (T,) each trial's schedule
    groups: Mapping[str, Hyperparams]  # of each group but the default one; only the five hyperparameters are read

    def __init__(
        self,
        lr: ArrayLike,
        momentum: ArrayLike = 0.0,
        weight_decay: ArrayLike = 0.0,
        dampening: ArrayLike = 0.0,
        nesterov: ArrayLike = False,
        *,
        clip_grad_norm: ArrayLike = np.inf,
        clip_grad_value: ArrayLike = np.inf,
        schedule: Schedule | Iterable[Schedule | None] | None = None,
        groups: Mapping[str, Mapping[str, ArrayLike]] | None = None,
    ) -> None:
        values = (lr, momentum, weight_decay, dampening, nesterov, clip_grad_norm, clip_grad_value)
        columns = dict(zip((*NAMES, *CLIPS), values, strict=True))
        given = {f"{name} of {group}": column for group, own in (groups or {}).items() for name, column in own.items()}
        schedules = [schedule] if schedule is None or isinstance(schedule, Schedule) else list(schedule)
        distinct = {each: i for i, each in enumerate(dict.fromkeys(schedules))}
        which = np.array([distinct[each] for each in schedules], dtype=np.intp)
        every = columns | given | {"schedule": which}
        try:
            arrays = np.broadcast_arrays(*(np.atleast_1d(np.asarray(column)) for column in every.values()))
        except ValueError as error:
            shapes = ", ".join(f"{name} {np.shape(c)}" for name, c in every.items())
            raise InvalidHyperparams(f"hyperparams must have the same length: {shapes}") from error
        wide = dict(zip(every, arrays, strict=True))
        for name in columns:
            array = wide[name]
            if array.ndim != 1:
                raise InvalidHyperparams(f"{name} must be a number or one-dimensional, not of shape {array.shape}")
            if array.dtype.kind not in "biuf":
                raise InvalidHyperparams(f"{name} must be numbers, not {array.dtype}")
            if name == "nesterov" and not np.isin(array, (0, 1)).all():
                raise InvalidHyperparams("nesterov must be true or false")
            dtype = np.bool_ if name == "nesterov" else np.float64
            object.__setattr__(self, name, np.array(array, dtype=dtype))
        self._validate()
        object.__setattr__(self, "schedules", tuple(distinct))
        object.__setattr__(self, "schedule_of", np.array(wide["schedule"], dtype=np.intp))
        own = {group: {name: wide[f"{name} of {group}"] for name in given} for group, given in (groups or {}).items()}
        object.__setattr__(self, "groups", {group: self._of_group(group, given) for group, given in own.items()})

    def _of_group(self, group: str, given: Mapping[str, ArrayLike]) -> Hyperparams:
        """Return the hyperparameters of a group."""
        for name in given:
            if name not in NAMES:
                raise InvalidHyperparams(f"group {group}: no hyperparameter {name!r}: they are {', '.join(NAMES)}")
        try:
            return Hyperparams(**{name: getattr(self, name) for name in NAMES} | dict(given))
        except InvalidHyperparams as error:
            raise InvalidHyperparams(f"group {group}: {error}") from error

    def _validate(self) -> None:
        for name, words in (
            ("lr", "learning rate"),
            ("momentum", "momentum value"),
            ("weight_decay", "weight_decay value"),
        ):
            column: NDArray[np.float64] = getattr(self, name)
            self._refuse(~(column >= 0.0) | np.isinf(column), f"Invalid {words}: {{}}", column)
        self._refuse(~np.isfinite(self.dampening), "Invalid dampening value: {}", self.dampening)
        needs = self.nesterov & ((self.momentum <= 0) | (self.dampening != 0))
        self._refuse(needs, "Nesterov momentum requires a momentum and zero dampening", self.lr)
        for name in CLIPS:
            column = getattr(self, name)
            self._refuse(~(column > 0), f"Invalid {name} value: {{}}, must be above 0", column)

    def _refuse(self, bad: NDArray[np.bool_], message: str, column: NDArray[np.float64]) -> None:
        if bad.any():
            trial = int(np.argmax(bad))
            where = f" (trial {trial})" if len(self) > 1 else ""
            raise InvalidHyperparams(message.format(float(column[trial])) + where)

    def __len__(self) -> int:
        """Return the number of trials T."""
        return len(self.lr)

    def __getitem__(self, trials: slice | NDArray[np.intp]) -> Hyperparams:
        """Return the rows that a slice or an index array selects."""
        part = object.__new__(Hyperparams)
        for name in (*NAMES, *CLIPS, "schedule_of"):
            object.__setattr__(part, name, getattr(self, name)[trials])
        object.__setattr__(part, "schedules", self.schedules)
        object.__setattr__(part, "groups", {name: group[trials] for name, group in self.groups.items()})
        return part

    @property
    def is_scheduled(self) -> bool:
        """Whether any trial has a schedule."""
        return any(schedule is not None for schedule in self.schedules)

    @property
    def is_clipped(self) -> NDArray[np.bool_]:
        """(T,) whether gradients are clipped."""
        return np.isfinite(self.clip_grad_norm) | np.isfinite(self.clip_grad_value)

    def replace(self, **columns: Any) -> Hyperparams:
        """Return the same trials with other columns, unchecked."""
        other = self[:]
        for name, column in columns.items():
            object.__setattr__(other, name, column)
        return other

    def arguments(self, trial: int) -> SGDArguments:
        """Return one trial's row as keyword arguments for torch.optim.SGD."""
        return SGDArguments(
            lr=float(self.lr[trial]),
            momentum=float(self.momentum[trial]),
            weight_decay=float(self.weight_decay[trial]),
            dampening=float(self.dampening[trial]),
            nesterov=bool(self.nesterov[trial]),
        )
