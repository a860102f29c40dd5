"""Pseudorandom points, any of which is computed from its index alone, by Philox.

Philox is the counter-based generator of Salmon et al. (2011), "Parallel random numbers: as easy as 1, 2, 3". Each name
has a stream, so that an axis keeps its values if others are added.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sweeps.search.base import FloatArray

BITS = 52  # random bits of a coordinate
_WORDS = 4  # per increment of the counter


@dataclass(frozen=True)
class PhiloxPoints:
    """The pseudorandom points of a seed."""

    seed: int

    def column(self, name: str, start: int, stop: int) -> FloatArray:
        """Return the coordinates of points start ... stop - 1 in the dimension of a name, in (0, 1)."""
        return unit(random_words(self.seed, name, start, stop) >> np.uint64(64 - BITS))


def random_words(seed: int, name: str, start: int, stop: int) -> NDArray[np.uint64]:
    """Return the random 64-bit words start ... stop - 1 of the stream of a seed and a name."""
    stream = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")
    skipped = start % _WORDS
    generator = np.random.Philox(key=np.array([seed, stream], dtype=np.uint64), counter=start // _WORDS)
    words: NDArray[np.uint64] = generator.random_raw(stop - start + skipped)
    return words[skipped:]


def unit(words: NDArray[np.uint64]) -> FloatArray:
    """Return the middles of 2^52 equal parts of (0, 1), by their indices."""
    return (words.astype(np.float64) + 0.5) * 2.0**-BITS
