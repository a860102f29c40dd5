"""The machine's limits: arithmetic with and without FMA on all cores, and writes to fresh memory."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numba import njit

from benchmarks.contenders import CORES
from sgdcore.kernels.simd.lanes import GROUP as WIDTH
from sgdcore.kernels.simd.lanes import fma, load, store

CHAINS = 12  # independent vectors: few enough for the registers, enough to hide the latency
SWEEPS = 8_000_000


def multiply_add_rate() -> float:
    """Return independent float32 multiplications and additions per second."""
    return 2 * _rate(_multiplied_and_added)


def fused_rate() -> float:
    """Return float32 operations per second if every multiplication is fused with an addition."""
    return 2 * _rate(_fused)


def write_rate(megabytes: int = 128) -> float:
    """Return the bytes per second that all cores write to untouched memory."""

    def write(part: Any) -> None:
        part.fill(1.0)

    with ThreadPoolExecutor(CORES) as pool:
        fresh = np.empty(megabytes * 1_000_000 // 8)
        begin = time.perf_counter()
        list(pool.map(write, np.array_split(fresh, CORES)))
        return fresh.nbytes / (time.perf_counter() - begin)


def _rate(chains: Callable[..., Any]) -> float:
    values = [np.ones(CHAINS * WIDTH, np.float32) for _ in range(CORES)]
    chains(values[0], np.full(WIDTH, 0.999, np.float32), np.full(WIDTH, 0.001, np.float32), 1)
    with ThreadPoolExecutor(CORES) as pool:
        begin = time.perf_counter()
        arguments = [np.full(WIDTH, number, np.float32) for number in (0.999, 0.001)]
        list(pool.map(lambda value: chains(value, *arguments, SWEEPS), values))
        return CORES * SWEEPS * CHAINS * WIDTH / (time.perf_counter() - begin)


@njit(nogil=True)
def _multiplied_and_added(values: Any, factor: Any, summand: Any, sweeps: int) -> None:
    f, s = load(factor, 0, WIDTH, 1, WIDTH), load(summand, 0, WIDTH, 1, WIDTH)
    chains = load(values, 0, WIDTH, CHAINS, WIDTH)
    for _ in range(sweeps):
        chains = chains * f + s
    store(values, 0, WIDTH, chains)


@njit(nogil=True)
def _fused(values: Any, factor: Any, summand: Any, sweeps: int) -> None:
    f, s = load(factor, 0, WIDTH, 1, WIDTH), load(summand, 0, WIDTH, 1, WIDTH)
    chains = load(values, 0, WIDTH, CHAINS, WIDTH)
    for _ in range(sweeps):
        chains = fma(chains, f, s)
    store(values, 0, WIDTH, chains)
