"""Columns: a pack's hyperparameters as tensors, those of a schedule step by step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sgdcore.hyperparams import NAMES, Hyperparams
from sgdcore.kernels.base import penalty_weights
from sgdcore.kernels.module_torch.clipping import Limits
from sgdcore.rates import Rates


@dataclass(frozen=True, eq=False)
class AllBut:
    """A condition that holds for all trials but those in these rows."""

    rows: torch.Tensor


def select(condition: torch.Tensor | AllBut | bool, yes: torch.Tensor, no: torch.Tensor) -> torch.Tensor:
    """Return ``yes`` where the condition holds, else ``no``; it may overwrite ``yes``."""
    if isinstance(condition, bool):
        return yes if condition else no
    if isinstance(condition, AllBut):
        return yes.index_copy_(0, condition.rows, no.index_select(0, condition.rows))
    return torch.where(condition, yes, no)


class Columns:
    """The hyperparameters of a pack of T trials: (T, 1) tensors, or (T, P) where parameter groups differ."""

    def __init__(
        self,
        hyperparams: Hyperparams,
        group_of: NDArray[np.intp],
        rates: Rates | None,
        trials: NDArray[np.intp],
        dtype: np.dtype[Any],
        device: str,
        *,
        flags: bool = True,
    ) -> None:
        """Take the rows ``trials`` of hyperparameters and rates.

        With ``flags``, a condition that is the same for all trials is a bool, and one that differs between trials lists
        them: both select faster than a tensor of conditions does. Trials without weight decay or momentum then compute
        with 0, which changes nothing: running trials are finite, and without momentum their dampening has no effect.
        """
        self._dtype, self._device, self._group_of = dtype, device, torch.from_numpy(group_of).to(device)
        pack = hyperparams[trials]
        every = [pack, *pack.groups.values()]
        lr, momentum, weight_decay, dampening, nesterov = (
            np.stack([getattr(group, name) for group in every], axis=1) for name in NAMES
        )
        self._flags = flags
        has_momentum, has_weight_decay = momentum != 0, weight_decay != 0
        if flags and (rates is None or rates.momentum is None):
            dampening = np.where(has_momentum, dampening, 0)
            has_momentum = np.full_like(has_momentum, has_momentum.any())
        if flags:
            has_weight_decay = np.full_like(has_weight_decay, has_weight_decay.any())
        numbers = (-lr, momentum, weight_decay, 1 - dampening)
        tensors = [self._by_parameter(self._numbers(values)) for values in numbers]
        self._rule: list[Any] = [*tensors, *map(self._flag, (has_momentum, has_weight_decay, nesterov))]
        self._rates, self._row = rates, -1
        if rates is not None:
            used, which = np.unique(rates.which[trials], return_inverse=True)
            self._which = torch.from_numpy(which.reshape(-1)).to(device)
            self._lr = self._numbers(-np.moveaxis(rates.lr[:, :, used], 1, 2))
            cycled = None if rates.momentum is None else np.moveaxis(rates.momentum[:, :, used], 1, 2)
            self._momentum = None if cycled is None else (self._numbers(cycled), self._tensor(cycled != 0))
        self._weights = penalty_weights(pack)
        self.limits: Limits = self._limit(pack.clip_grad_norm), self._limit(pack.clip_grad_value)

    def at(self, step: int) -> tuple[Any, ...]:
        """Return the arguments of sgdcore.rule.update that follow ``is_first``."""
        if self._rates is not None:
            row = step // self._rates.steps_per_row - self._rates.first_row
            if row != self._row:
                self._row = row
                self._rule[0] = self._of_row(self._lr)
                if self._momentum is not None:
                    self._rule[1], self._rule[4] = map(self._of_row, self._momentum)
        return tuple(self._rule)

    def squared_norm(self, params: torch.Tensor) -> torch.Tensor:
        """Return the (T,) sums of squares in float64, with groups the sums of weight_decay p^2."""
        exact = params.double()
        if self._weights is None:
            return exact.square().sum(1)
        weights = torch.from_numpy(self._weights.T).to(self._device)
        return (weights[:, self._group_of] * exact * exact).sum(1)

    def _of_row(self, table: torch.Tensor) -> torch.Tensor:
        return self._by_parameter(table[self._row].index_select(0, self._which))

    def _by_parameter(self, values: torch.Tensor) -> torch.Tensor:
        """Return (T, P) values of a tensor (T, G), or the tensor itself if it is (T, 1)."""
        return values if values.shape[1] == 1 else values.index_select(1, self._group_of)

    def _flag(self, values: NDArray[np.bool_]) -> torch.Tensor | AllBut | bool:
        if self._flags and (values == values.flat[0]).all():
            return bool(values.flat[0])
        if self._flags and (values == values[:, :1]).all() and self._device == "cpu":
            return AllBut(torch.from_numpy(np.flatnonzero(~values[:, 0])).to(self._device))
        return self._by_parameter(self._tensor(values))

    def _limit(self, limits: NDArray[np.float64]) -> torch.Tensor | None:
        return self._numbers(limits[:, np.newaxis]) if np.isfinite(limits).any() else None

    def _numbers(self, values: NDArray[np.float64]) -> torch.Tensor:
        with np.errstate(over="ignore"):
            return self._tensor(values.astype(self._dtype))

    def _tensor(self, values: NDArray[Any]) -> torch.Tensor:
        """Return values (..., G) as a tensor (..., 1) if they are the same in all groups, else (..., G)."""
        if (values == values[..., :1]).all():
            values = values[..., :1]
        return torch.from_numpy(np.ascontiguousarray(values)).to(self._device)
