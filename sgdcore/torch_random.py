"""The draws of torch's CPU generator, without importing torch, which takes a second.

``torch.Generator`` is a Mersenne Twister (M. Matsumoto and T. Nishimura, 1998) seeded with the low 32 bits of the seed,
as numpy's legacy RandomState. The conversions are those of ATen/native/cpu/DistributionTemplates.h and of
torch.nn.Linear.reset_parameters.
"""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

_WORD = 1 << 32
_MIN_ROWS = 64  # from here on, rows are shuffled side by side


class TorchGenerator:
    """The numbers that ``torch.Generator().manual_seed(seed)`` gives to torch's functions on the CPU."""

    def __init__(self, seed: int) -> None:
        """Seed the generator."""
        self._twister = np.random.RandomState(seed % _WORD)

    def words(self, n: int) -> NDArray[np.uint32]:
        """Draw n numbers of 32 bits."""
        return self._twister.randint(_WORD, size=n, dtype=np.uint32)

    def data_loader_orders(self, samples: int, epochs: int) -> NDArray[np.int32]:
        """Draw the (epochs, samples) orders of DataLoader(shuffle=True, generator=...) for 1 <= samples < 2^31.

        An epoch draws three times: the base seed of the loader's workers, a 64-bit number; the permutation; and the
        permutation from which RandomSampler takes its (empty) remainder.
        """
        swaps = samples - 1
        words = self.words(epochs * (2 + 2 * swaps)).reshape(epochs, -1)
        return _shuffled(np.remainder(words[:, 2 : 2 + swaps], np.arange(samples, 1, -1), dtype=np.int64))

    def uniform(self, n: int, bound: float, dtype: str) -> NDArray[np.floating]:
        """Draw torch.empty(n, dtype=dtype).uniform_(-bound, bound)."""
        if dtype == "float32":
            # 24 bits of one word; the arithmetic is in float64, where the product is exact.
            end = np.float32(bound)
            units = (self.words(n) & 0xFFFFFF) * 2.0**-24
            return (units * float(end + end) - float(end)).astype(np.float32)
        # 53 bits of two words. torch's product and sum are one fused operation: exact, then rounded once.
        pairs = self.words(2 * n).reshape(n, 2).tolist()
        edge, unit = Fraction(bound), Fraction(bound + bound) / (1 << 53)
        drawn = [float(((high << 32 | low) % (1 << 53)) * unit - edge) for high, low in pairs]
        return np.array(drawn, dtype=np.float64)


def _shuffled(offsets: NDArray[np.int64]) -> NDArray[np.int32]:
    """Return (rows, n) permutations as torch.randperm makes them of (rows, n - 1) draws: swap i with i + offset."""
    rows, swaps = offsets.shape
    if rows < _MIN_ROWS:
        return np.array([_shuffle(row) for row in offsets.tolist()], dtype=np.int32).reshape(rows, swaps + 1)
    columns = np.repeat(np.arange(swaps + 1, dtype=np.int32)[:, np.newaxis], rows, axis=1)
    every = np.arange(rows)
    for i, places in enumerate(offsets.T + np.arange(swaps)[:, np.newaxis]):
        columns[i], columns[places, every] = columns[places, every], columns[i].copy()
    return np.ascontiguousarray(columns.T)


def _shuffle(offsets: list[int]) -> list[int]:
    permutation = list(range(len(offsets) + 1))
    for i, offset in enumerate(offsets):
        j = i + offset
        permutation[i], permutation[j] = permutation[j], permutation[i]
    return permutation


def linear_params(width: int, outputs: int, bias: bool, seed: int, dtype: str) -> NDArray[np.float64]:
    """Return the (P,) parameters of torch.nn.Linear(width, outputs, bias), made after torch.manual_seed(seed)."""
    generator = TorchGenerator(seed)
    weight_bound = math.sqrt(3.0) * (math.sqrt(2.0 / (1 + math.sqrt(5) ** 2)) / math.sqrt(width))  # kaiming_uniform_
    drawn = [generator.uniform(outputs * width, weight_bound, dtype)]
    if bias:
        drawn.append(generator.uniform(outputs, 1 / math.sqrt(width), dtype))
    return np.concatenate(drawn).astype(np.float64)
