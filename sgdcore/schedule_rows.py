"""The rows of one scheduler: torch's own expressions, row by row, for the learning rates of many trials.

torch computes most schedules by recursion, each row from the row before, and a recursion rounds differently from the
closed form. So every row is computed from the one before wherever torch does so, and in closed form where torch's
SequentialLR starts the next scheduler.

Source: torch/optim/lr_scheduler.py, ``get_lr`` and ``_get_closed_form_lr``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]


class _Part:
    """A scheduler's rows, counted from its own start; a learning rate that it does not change stays as it is."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        given = dict(options)
        self.milestones: tuple[int, ...] = given.pop("milestones", ())
        self.anneals_linearly = given.pop("anneal_strategy", "cos") == "linear"
        self.max_lr: float | None = given.pop("max_lr", None)
        self.options: Mapping[str, float] = given

    def first(self, base: FloatArray) -> FloatArray:
        """Return row 0 of the run."""
        return base

    def restarted(self, base: FloatArray) -> FloatArray:
        """Return row 0 after another scheduler, in closed form."""
        return self.first(base)

    def following(self, row: int, lr: FloatArray, base: FloatArray) -> FloatArray:
        """Return a later row from the row before."""
        raise NotImplementedError

    def momentum(self, row: int) -> float | None:
        """Return the momentum of a row, None if the scheduler leaves it alone."""
        return None


class _Constant(_Part):
    def first(self, base: FloatArray) -> FloatArray:
        return base * self.options["factor"]

    def restarted(self, base: FloatArray) -> FloatArray:
        factor = self.options["factor"]
        return base * (factor + (self.options["total_iters"] <= 0) * (1 - factor))

    def following(self, row: int, lr: FloatArray, base: FloatArray) -> FloatArray:
        return lr * (1.0 / self.options["factor"]) if row == self.options["total_iters"] else lr


class _Step(_Part):
    def following(self, row: int, lr: FloatArray, base: FloatArray) -> FloatArray:
        return lr if row % self.options["step_size"] else lr * self.options["gamma"]


class _MultiStep(_Part):
    def following(self, row: int, lr: FloatArray, base: FloatArray) -> FloatArray:
        times = self.milestones.count(row)
        return lr * self.options["gamma"] ** times if times else lr


class _Exponential(_Part):
    def following(self, row: int, lr: FloatArray, base: FloatArray) -> FloatArray:
        return lr * self.options["gamma"]


class _Linear(_Part):
    def first(self, base: FloatArray) -> FloatArray:
        return base * self.options["start_factor"]

    def restarted(self, base: FloatArray) -> FloatArray:
        start, end, total = (self.options[name] for name in ("start_factor", "end_factor", "total_iters"))
        return base * (start + (end - start) * min(total, 0) / total)

    def following(self, row: int, lr: FloatArray, base: FloatArray) -> FloatArray:
        start, end, total = (self.options[name] for name in ("start_factor", "end_factor", "total_iters"))
        if row > total:
            return lr
        return lr * (1.0 + (end - start) / (total * start + (row - 1) * (end - start)))


class _Polynomial(_Part):
    def following(self, row: int, lr: FloatArray, base: FloatArray) -> FloatArray:
        total, power = self.options["total_iters"], self.options["power"]
        if row > total:
            return lr
        factor = ((1.0 - row / total) / (1.0 - (row - 1) / total)) ** power
        return np.asarray(lr * factor)


class _Cosine(_Part):
    def restarted(self, base: FloatArray) -> FloatArray:
        low, total = self.options["eta_min"], self.options["T_max"]
        return low + (base - low) * (1 + math.cos(math.pi * 0 / total)) / 2

    def following(self, row: int, lr: FloatArray, base: FloatArray) -> FloatArray:
        low, total = self.options["eta_min"], self.options["T_max"]
        if (row - 1 - total) % (2 * total) == 0:
            return lr + (base - low) * (1 - math.cos(math.pi / total)) / 2
        now, before = 1 + math.cos(math.pi * row / total), 1 + math.cos(math.pi * (row - 1) / total)
        return now / before * (lr - low) + low


class _CosineRestarts(_Part):
    def first(self, base: FloatArray) -> FloatArray:
        return self.following(0, base, base)

    def following(self, row: int, lr: FloatArray, base: FloatArray) -> FloatArray:
        low, length, factor = self.options["eta_min"], int(self.options["T_0"]), int(self.options["T_mult"])
        while row >= length:
            row -= length
            length *= factor
        return np.asarray(low + (base - low) * (1 + math.cos(math.pi * row / length)) / 2)


class _OneCycle(_Part):
    def first(self, base: FloatArray) -> FloatArray:
        return self.following(0, base, base)

    def following(self, row: int, lr: FloatArray, base: FloatArray) -> FloatArray:
        highest = base if self.max_lr is None else np.full_like(base, self.max_lr)
        initial = highest / self.options["div_factor"]
        rates = {"initial": initial, "max": highest, "min": initial / self.options["final_div_factor"]}
        (start, end), _, share = self._phase(row)
        return np.asarray(self._annealed(rates[start], rates[end], share))

    def momentum(self, row: int) -> float | None:
        if not self.options["cycle_momentum"]:
            return None
        _, (start, end), share = self._phase(row)
        return float(self._annealed(self.options[f"{start}_momentum"], self.options[f"{end}_momentum"], share))

    def _phase(self, row: int) -> tuple[tuple[str, str], tuple[str, str], float]:
        """Return where the learning rate and the momentum go, and the share of the way."""
        total, rise = self.options["total_steps"], self.options["pct_start"]
        up = (float(rise * total) - 1, ("initial", "max"), ("max", "base"))
        if self.options["three_phase"]:
            down = (float(2 * rise * total) - 2, ("max", "initial"), ("base", "max"))
            phases = [up, down, (total - 1, ("initial", "min"), ("max", "max"))]
        else:
            phases = [up, (total - 1, ("max", "min"), ("base", "max"))]
        begin: float = 0.0
        for end, rates, momenta in phases[:-1]:
            if row <= end:
                return rates, momenta, (row - begin) / (end - begin)
            begin = end
        end, rates, momenta = phases[-1]
        return rates, momenta, (row - begin) / (end - begin)

    def _annealed(self, start: Any, end: Any, share: float) -> Any:
        if self.anneals_linearly:
            return (end - start) * share + start
        return end + (start - end) / 2.0 * (math.cos(math.pi * share) + 1)


PARTS: dict[str, type[_Part]] = {
    "constant": _Constant,
    "step": _Step,
    "multistep": _MultiStep,
    "exponential": _Exponential,
    "linear": _Linear,
    "cosine": _Cosine,
    "cosine_restarts": _CosineRestarts,
    "polynomial": _Polynomial,
    "onecycle": _OneCycle,
}
