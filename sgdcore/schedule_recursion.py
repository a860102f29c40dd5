"""The recursion of schedules: each row of learning rates from the row before, by torch's own operations."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

# How a row follows from the one before it.
KEPT, SCALED, TOWARDS, TURNED = range(4)
FEW = 256  # largest number of rows that are not worth the compiler


def following(form: Any, factor: Any, low: Any, lr: Any, base: Any) -> Any:
    """Return the learning rate of a row from that of the row before and the base."""
    if form == KEPT:
        return lr
    if form == SCALED:
        return lr * factor
    if form == TOWARDS:
        return factor * (lr - low) + low
    return lr + (base - low) * factor / 2


def follow(forms: NDArray[np.int64], factors: FloatArray, low: float, base: FloatArray, rates: FloatArray) -> None:
    """Fill ``rates`` (1 + R, columns) from row 1 on; its row 0 is the row before."""
    if len(forms) > FEW:
        _compiled()(forms, factors, low, base, rates)
        return
    with np.errstate(over="ignore", invalid="ignore"):
        for row, (form, factor) in enumerate(zip(forms.tolist(), factors.tolist(), strict=True)):
            rates[row + 1] = following(form, factor, low, rates[row], base)


def _follow(forms: Any, factors: Any, low: Any, base: Any, rates: Any) -> None:
    for row in range(len(forms)):
        form, factor = forms[row], factors[row]
        for column in range(len(base)):
            rates[row + 1, column] = following(form, factor, low, rates[row, column], base[column])


@cache
def _compiled() -> Callable[..., None]:
    from numba import njit
    from numba.extending import register_jitable

    from sgdcore.compile_cache import CACHED

    register_jitable(following)
    compiled: Callable[..., None] = njit(nogil=True, error_model="numpy", cache=CACHED)(_follow)
    return compiled
