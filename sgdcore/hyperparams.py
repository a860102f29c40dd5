"""Hyperparams: the five hyperparameters of torch.optim.SGD as columns, one row per trial, checked by torch's rules."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypedDict

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sgdcore.errors import InvalidHyperparams

NAMES = ("lr", "momentum", "weight_decay", "dampening", "nesterov")


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

    All columns are float64 of shape (T,), nesterov is bool.

    Raises:
        InvalidHyperparams: a value that torch.optim.SGD rejects (same wording), or one that is not finite.
    """

    lr: NDArray[np.float64]
    momentum: NDArray[np.float64]
    weight_decay: NDArray[np.float64]
    dampening: NDArray[np.float64]
    nesterov: NDArray[np.bool_]

    def __init__(
        self,
        lr: ArrayLike,
        momentum: ArrayLike = 0.0,
        weight_decay: ArrayLike = 0.0,
        dampening: ArrayLike = 0.0,
        nesterov: ArrayLike = False,
    ) -> None:
        columns = (lr, momentum, weight_decay, dampening, nesterov)
        try:
            arrays = np.broadcast_arrays(*(np.atleast_1d(np.asarray(column)) for column in columns))
        except ValueError as error:
            shapes = ", ".join(f"{name} {np.shape(c)}" for name, c in zip(NAMES, columns, strict=True))
            raise InvalidHyperparams(f"hyperparams must have the same length: {shapes}") from error
        for name, array in zip(NAMES, arrays, strict=True):
            if array.ndim != 1:
                raise InvalidHyperparams(f"{name} must be a number or one-dimensional, not of shape {array.shape}")
            if array.dtype.kind not in "biuf":
                raise InvalidHyperparams(f"{name} must be numbers, not {array.dtype}")
            if name == "nesterov" and not np.isin(array, (0, 1)).all():
                raise InvalidHyperparams("nesterov must be true or false")
            dtype = np.bool_ if name == "nesterov" else np.float64
            object.__setattr__(self, name, np.array(array, dtype=dtype))
        self._validate()

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
        return Hyperparams(**{name: getattr(self, name)[trials] for name in NAMES})

    def arguments(self, trial: int) -> SGDArguments:
        """Return one trial's row as keyword arguments for torch.optim.SGD."""
        return SGDArguments(
            lr=float(self.lr[trial]),
            momentum=float(self.momentum[trial]),
            weight_decay=float(self.weight_decay[trial]),
            dampening=float(self.dampening[trial]),
            nesterov=bool(self.nesterov[trial]),
        )
