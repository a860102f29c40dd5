"""Scrambled Sobol points, any of which is computed from its index alone.

The points are those of Sobol (1967) in Gray-code order with the direction numbers of Joe and Kuo (2008), "Constructing
Sobol sequences with better two-dimensional projections", SIAM Journal on Scientific Computing 30, 2635-2654. They are
scrambled by a random lower triangular matrix and a random digital shift, as in Matousek (1998), "On the L2-discrepancy
for anchored boxes", Journal of Complexity 14, 527-556.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from sweeps.search.base import FloatArray
from sweeps.search.philox_points import BITS, random_words, unit

MAX_DIMENSIONS = 64
_DIGITS = 32  # binary digits of an index
_TABLE_BITS = 12
# The primitive polynomial of each dimension after the first and its initial direction numbers.
_DIRECTIONS = """
    3:1 7:1,3 11:1,3,1 13:1,1,1 19:1,1,3,3 25:1,3,5,13 37:1,1,5,5,17 41:1,1,5,5,5 47:1,1,7,11,19 55:1,1,5,1,1
    59:1,1,1,3,11 61:1,3,5,5,31 67:1,3,3,9,7,49 91:1,1,1,15,21,21 97:1,3,1,13,27,49 103:1,1,1,15,7,5
    109:1,3,1,15,13,25 115:1,1,5,5,19,61 131:1,3,7,11,23,15,103 137:1,3,7,13,13,15,69 143:1,1,3,13,7,35,63
    145:1,3,5,9,1,25,53 157:1,3,1,13,9,35,107 167:1,3,1,5,27,61,31 171:1,1,5,11,19,41,61 185:1,3,5,3,3,13,69
    191:1,1,7,13,1,19,1 193:1,3,7,5,13,19,59 203:1,1,3,9,25,29,41 211:1,3,5,13,23,1,55 213:1,3,7,3,13,59,17
    229:1,3,1,3,5,53,69 239:1,1,5,5,23,33,13 241:1,1,7,7,1,61,123 247:1,1,7,9,13,61,49 253:1,3,3,5,3,55,33
    285:1,3,1,15,31,13,49,245 299:1,3,5,15,31,59,63,97 301:1,3,1,11,11,11,77,249 333:1,3,1,11,27,43,71,9
    351:1,1,7,15,21,11,81,45 355:1,3,7,3,25,31,65,79 357:1,3,1,1,19,11,3,205 361:1,1,5,9,19,21,29,157
    369:1,3,7,11,1,33,89,185 391:1,3,3,3,15,9,79,71 397:1,3,7,11,15,39,119,27 425:1,1,3,1,11,31,97,225
    451:1,1,1,3,23,43,57,177 463:1,3,7,7,17,17,37,71 487:1,3,1,5,27,63,123,213 501:1,1,3,5,11,43,53,133
    529:1,3,5,5,29,17,47,173,479 539:1,3,3,11,3,1,109,9,69 545:1,1,1,5,17,39,23,5,343 557:1,3,1,5,25,15,31,103,499
    563:1,1,1,11,11,17,63,105,183 601:1,1,5,11,9,29,97,231,363 607:1,1,5,15,19,45,41,7,383
    617:1,3,7,7,31,19,83,137,221 623:1,1,1,3,23,15,111,223,83 631:1,1,5,13,31,15,55,25,161
    637:1,1,3,13,25,47,39,87,257
"""

Words = NDArray[np.uint64]


@dataclass(frozen=True)
class SobolPoints:
    """The scrambled Sobol sequence of a seed, with one dimension per name."""

    seed: int
    names: tuple[str, ...]

    def column(self, name: str, start: int, stop: int) -> FloatArray:
        """Return the coordinates of points start ... stop - 1 in the dimension of a name, in (0, 1)."""
        index = np.arange(start, stop, dtype=np.uint64)
        gray = index ^ (index >> np.uint64(1))
        shift, tables = self._tables[name]
        found = np.full(len(index), shift, dtype=np.uint64)
        mask = np.uint64(2**_TABLE_BITS - 1)
        for place, table in enumerate(tables):
            found ^= table[(gray >> np.uint64(place * _TABLE_BITS)) & mask]
        return unit(found)

    @cached_property
    def _tables(self) -> dict[str, tuple[np.uint64, list[Words]]]:
        """The digital shift of each dimension, and the xor of its direction numbers for every 12 digits of an index."""
        found = {}
        for dimension, name in enumerate(self.names):
            words = random_words(self.seed, f"sobol.{name}", 0, 1 + BITS)
            directions = _scrambled(_directions(dimension), words[1:])
            tables = [_xors(directions[at : at + _TABLE_BITS]) for at in range(0, _DIGITS, _TABLE_BITS)]
            found[name] = words[0] >> np.uint64(64 - BITS), tables
        return found


def _directions(dimension: int) -> list[int]:
    """Return the direction numbers of a dimension as integers of 32 digits."""
    if dimension == 0:
        return [1 << (_DIGITS - 1 - k) for k in range(_DIGITS)]
    polynomial, _, initial = _DIRECTIONS.split()[dimension - 1].partition(":")
    m, p = [int(each) for each in initial.split(",")], int(polynomial)
    degree = len(m)
    for k in range(degree, _DIGITS):
        new = m[k - degree] ^ (m[k - degree] << degree)
        for i in range(1, degree):
            new ^= ((p >> (degree - i)) & 1) * (m[k - i] << i)
        m.append(new)
    return [value << (_DIGITS - 1 - k) for k, value in enumerate(m)]


def _scrambled(directions: list[int], words: Words) -> list[int]:
    """Return L v of each direction number v: the rows of L are random up to the diagonal of ones."""
    rows = []
    for row, word in enumerate(words.tolist()):
        mask = (1 << _DIGITS) - 1
        if row < _DIGITS:
            diagonal = 1 << (_DIGITS - 1 - row)
            word, mask = word | diagonal, mask & ~(diagonal - 1)
        rows.append(word & mask)
    return [sum(((row & v).bit_count() & 1) << (BITS - 1 - i) for i, row in enumerate(rows)) for v in directions]


def _xors(directions: list[int]) -> Words:
    """Return the xor of the directions that each index of 12 digits selects."""
    table = np.zeros(1, dtype=np.uint64)
    for direction in directions:
        table = np.concatenate([table, table ^ np.uint64(direction)])
    return table
