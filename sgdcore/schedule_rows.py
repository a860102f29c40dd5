"""The rows of one scheduler: torch's own expressions, many rows at a time, for the learning rates of many trials.

torch computes most schedules by recursion, each row from the row before, and a recursion rounds differently from the
closed form. So every row is computed from the one before wherever torch does so, and in closed form where torch's
SequentialLR starts the next scheduler. Cosines and powers are Python's: numpy's round differently.

Source: torch/optim/lr_scheduler.py, ``get_lr`` and ``_get_closed_form_lr``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sgdcore.schedule_recursion import KEPT, SCALED, TOWARDS, TURNED, FloatArray, follow

Rows = NDArray[np.int64]
_Phase = tuple[NDArray[np.bool_], tuple[str, str], tuple[str, str], FloatArray]


class _Part:
    """A scheduler's rows, counted from its own start; a learning rate that it does not change stays as it is."""

    low = 0.0

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

    def fill(self, rows: Rows, base: FloatArray, rates: FloatArray) -> None:
        """Write consecutive rows, none of them row 0, to ``rates`` (1 + R, columns); its row 0 is the row before."""
        forms, factors = self._recursion(rows)
        follow(forms, factors, self.low, base, rates)

    def momentum(self, rows: Rows) -> FloatArray | None:
        """Return the momentum of each row, None if the scheduler leaves it alone."""
        return None

    def _recursion(self, rows: Rows) -> tuple[Rows, FloatArray]:
        """Return how each row follows from the row before, and its factor."""
        raise NotImplementedError


def _scaled(where: NDArray[np.bool_], factors: Any) -> tuple[Rows, FloatArray]:
    """Return a recursion that multiplies some of the rows."""
    return np.where(where, SCALED, KEPT), np.where(where, factors, 1.0)


def _cosines(angles: FloatArray) -> FloatArray:
    return np.array(list(map(math.cos, angles.tolist())))


class _Constant(_Part):
    def first(self, base: FloatArray) -> FloatArray:
        return base * self.options["factor"]

    def restarted(self, base: FloatArray) -> FloatArray:
        factor = self.options["factor"]
        return base * (factor + (self.options["total_iters"] <= 0) * (1 - factor))

    def _recursion(self, rows: Rows) -> tuple[Rows, FloatArray]:
        return _scaled(rows == self.options["total_iters"], 1.0 / self.options["factor"])


class _Step(_Part):
    def _recursion(self, rows: Rows) -> tuple[Rows, FloatArray]:
        return _scaled(rows % int(self.options["step_size"]) == 0, self.options["gamma"])


class _MultiStep(_Part):
    def _recursion(self, rows: Rows) -> tuple[Rows, FloatArray]:
        factors = np.ones(len(rows))
        for row in set(self.milestones):
            factors[rows == row] = self.options["gamma"] ** self.milestones.count(row)
        return _scaled(np.isin(rows, self.milestones), factors)


class _Exponential(_Part):
    def _recursion(self, rows: Rows) -> tuple[Rows, FloatArray]:
        return _scaled(rows > 0, self.options["gamma"])


class _Linear(_Part):
    def first(self, base: FloatArray) -> FloatArray:
        return base * self.options["start_factor"]

    def restarted(self, base: FloatArray) -> FloatArray:
        start, end, total = (self.options[name] for name in ("start_factor", "end_factor", "total_iters"))
        return base * (start + (end - start) * min(total, 0) / total)

    def _recursion(self, rows: Rows) -> tuple[Rows, FloatArray]:
        start, end, total = (self.options[name] for name in ("start_factor", "end_factor", "total_iters"))
        factors = 1.0 + (end - start) / (total * start + (np.minimum(rows, total) - 1) * (end - start))
        return _scaled(rows <= total, factors)


class _Polynomial(_Part):
    def _recursion(self, rows: Rows) -> tuple[Rows, FloatArray]:
        total, power = self.options["total_iters"], self.options["power"]
        changed = np.minimum(rows, total)
        bases = (1.0 - changed / total) / (1.0 - (changed - 1) / total)
        return _scaled(rows <= total, [value**power for value in bases.tolist()])


class _Cosine(_Part):
    def __init__(self, options: Mapping[str, Any]) -> None:
        super().__init__(options)
        self.low = self.options["eta_min"]

    def restarted(self, base: FloatArray) -> FloatArray:
        low, total = self.low, self.options["T_max"]
        return low + (base - low) * (1 + math.cos(math.pi * 0 / total)) / 2

    def _recursion(self, rows: Rows) -> tuple[Rows, FloatArray]:
        total = int(self.options["T_max"])
        turns = (rows - 1 - total) % (2 * total) == 0
        heights = 1 + _cosines(math.pi * np.append(rows[:1] - 1, rows) / total)
        factors = np.full(len(rows), 1 - math.cos(math.pi / total))
        np.divide(heights[1:], heights[:-1], out=factors, where=~turns)
        return np.where(turns, TURNED, TOWARDS), factors


class _CosineRestarts(_Part):
    def first(self, base: FloatArray) -> FloatArray:
        rates = np.empty((2, len(base)))
        self.fill(np.zeros(1, np.int64), base, rates)
        return np.asarray(rates[1])

    def fill(self, rows: Rows, base: FloatArray, rates: FloatArray) -> None:
        low, length, factor = self.options["eta_min"], int(self.options["T_0"]), int(self.options["T_mult"])
        if factor == 1:
            rows = rows % length
        lengths = np.full(len(rows), length)
        while (over := rows >= lengths).any():
            rows = np.where(over, rows - lengths, rows)
            lengths = np.where(over, lengths * factor, lengths)
        heights = 1 + _cosines(math.pi * rows / lengths)
        rates[1:] = low + (base - low) * heights[:, np.newaxis] / 2


class _OneCycle(_Part):
    def first(self, base: FloatArray) -> FloatArray:
        rates = np.empty((2, len(base)))
        self.fill(np.zeros(1, np.int64), base, rates)
        return np.asarray(rates[1])

    def fill(self, rows: Rows, base: FloatArray, rates: FloatArray) -> None:
        highest = base if self.max_lr is None else np.full_like(base, self.max_lr)
        initial = highest / self.options["div_factor"]
        ends = {"initial": initial, "max": highest, "min": initial / self.options["final_div_factor"]}
        for some, (start, end), _, shares in self._phases(rows):
            rates[1:][some] = self._annealed(ends[start], ends[end], shares[:, np.newaxis])

    def momentum(self, rows: Rows) -> FloatArray | None:
        if not self.options["cycle_momentum"]:
            return None
        momenta = np.empty(len(rows))
        for some, _, (start, end), shares in self._phases(rows):
            momenta[some] = self._annealed(self.options[f"{start}_momentum"], self.options[f"{end}_momentum"], shares)
        return momenta

    def _phases(self, rows: Rows) -> list[_Phase]:
        """Return the rows of each phase, where the learning rate and the momentum go, and the shares of the way."""
        total, rise = self.options["total_steps"], self.options["pct_start"]
        up = (float(rise * total) - 1, ("initial", "max"), ("max", "base"))
        if self.options["three_phase"]:
            down = (float(2 * rise * total) - 2, ("max", "initial"), ("base", "max"))
            phases = [up, down, (total - 1, ("initial", "min"), ("max", "max"))]
        else:
            phases = [up, (total - 1, ("max", "min"), ("base", "max"))]
        found: list[_Phase] = []
        begin: float = 0.0
        left: NDArray[np.bool_] = np.ones(len(rows), np.bool_)
        for number, (end, rates, momenta) in enumerate(phases):
            some = left if number == len(phases) - 1 else left & (rows <= end)
            if some.any():
                found.append((some, rates, momenta, np.asarray((rows[some] - begin) / (end - begin), np.float64)))
            begin, left = end, left & ~some
        return found

    def _annealed(self, start: Any, end: Any, shares: FloatArray) -> FloatArray:
        if self.anneals_linearly:
            return np.asarray((end - start) * shares + start)
        heights = _cosines(math.pi * shares.reshape(-1)).reshape(shares.shape) + 1
        return np.asarray(end + (start - end) / 2.0 * heights)


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


class ScheduleRows:
    """The rows of a whole schedule, computed in order, as many at a time as are asked for.

    Args:
        parts: the schedulers, as kinds and options.
        milestones: the row at which each but the first starts.
        base: (columns,) the base learning rates.
    """

    def __init__(
        self, parts: Sequence[tuple[str, Mapping[str, Any]]], milestones: Sequence[int], base: FloatArray
    ) -> None:
        """Begin before row 0."""
        self._parts = [PARTS[kind](options) for kind, options in parts]
        self._starts, self._ends = (0, *milestones), (*milestones, None)
        self._base, self._rates = base, base
        self._row, self._part = 0, 0

    def take(self, count: int) -> tuple[FloatArray, FloatArray | None]:
        """Return (count, columns) learning rates, and (count,) momenta if the schedule sets them."""
        rates = np.empty((1 + count, len(self._base)))  # after the row before
        rates[0] = self._rates
        momenta, done = None, 0
        while done < count:
            part, start, end = self._parts[self._part], self._starts[self._part], self._ends[self._part]
            some = count - done if end is None else min(count - done, end - self._row)
            rows = np.arange(self._row, self._row + some) - start
            self._fill(part, rows, rates[done : done + some + 1])
            momenta = part.momentum(rows)  # only onecycle has any, and it is a whole schedule
            done, self._row = done + some, self._row + some
            self._part += self._row == end
        self._rates = rates[-1].copy()
        return rates[1:], momenta

    def _fill(self, part: _Part, rows: Rows, rates: FloatArray) -> None:
        """Write consecutive rows of one scheduler to ``rates``, from its row 1 on; its row 0 is the row before."""
        with np.errstate(over="ignore", invalid="ignore"):
            if rows[0] == 0:
                rates[1] = part.restarted(self._base) if self._part else part.first(self._base)
                rows, rates = rows[1:], rates[1:]
            if len(rows):
                part.fill(rows, self._base, rates)
