"""Arrays for SIMD code: aligned to cache lines, and empty stand-ins."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sgdcore.kernels.simd.lanes import compiled


@compiled
def aligned(size, dtype):  # type: ignore[no-untyped-def]
    """Return an uninitialised array aligned to a cache line, so that no vector crosses two lines."""
    raw = np.empty(size + 64, dtype)
    skip = -np.int64(raw.ctypes.data) % 64 // raw.itemsize
    return raw[skip : skip + size]


def or_empty(array: NDArray[Any] | None, ndim: int, dtype: Any = np.float64) -> NDArray[Any]:
    """Return the array, or an empty one in place of None, which compiled code does not accept."""
    return np.empty((0,) * ndim, dtype) if array is None else array
