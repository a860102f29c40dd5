"""Forms and kinds: the properties of a run and of a trial that a step function is compiled for.

A tile is rows of ``lanes`` adjacent numbers, one per trial, in arrays of rows:

    tile:  parameters, momentum buffers, peaks; P rows each. A peak is the largest value so far, past its target, of the
           parameter with its sign flipped so that its target lies above its start
    ticks: per parameter, the step that reached the peak, counted from the chunk's start; 0 if it is older. Then the
           number of the chunk's steps whose gradients were clipped
    fixed: signs (P rows of 0 and -0); -lr, momentum, weight_decay, 1 - dampening of every group; limits of gradients;
           room for residuals and gradients; the rows of scheduled rates
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sgdcore.hyperparams import Hyperparams
from sgdcore.kernels.linear_numba.qr_blocks import EXTRA
from sgdcore.kernels.simd.clipping import EPSILON
from sgdcore.kernels.simd.lanes import GROUP, REGISTERS

FEW = 16  # largest number of parameters for which a step is unrolled
PARTS = 2  # parts of the lanes that are unrolled together
# (largest number of parameters, vectors of trials in a part): enough vectors to hide latency, few enough to fit in
# registers.
VECTORS = ((2, 3), (4, 2), (FEW, 1), (np.inf, 2)) if REGISTERS >= 32 else ((2, 2), (FEW, 1), (np.inf, 2))
BLOCK = 4  # rows or parameters processed together in larger models
COLUMNS = 4  # rows of ``fixed`` that hold a group's hyperparameters
TILE_BYTES = 24_000  # target size of a tile with the arrays around it
ROWS = 8  # rows per parameter in a tile with the arrays around it
MOST_LANES = 512
ROOM = 2 * BLOCK  # rows of ``fixed`` for residuals and gradients, besides P
RATE_ROWS = 32  # rows of scheduled rates that a tile holds at a time
TRIANGLE, RECTANGLE = 0, 3  # forms of a batch of more than two samples
CONSTANT, LR, LR_AND_MOMENTUM = 0, 1, 2  # what is scheduled
MOMENTUM, DECAY, NESTEROV, DAMPENING = 1, 2, 4, 8  # bits of a kind of trials,
BIAS_BITS = 4  # followed by those of the bias if it is in another group,
NORM, VALUE = 256, 512  # and by what clips the gradients
CLIPS = NORM | VALUE
LIMITS = 3  # rows of ``fixed`` with the limits of clipped gradients: see limit_columns


@dataclass(frozen=True)
class Form:
    """The properties that all steps of a run share."""

    dtype: str
    features: int
    bias: bool
    batch: int  # samples in a batch, 1 or 2; for more: 0 for triangles, RECTANGLE for the samples themselves
    rows: int = 0  # rows of a triangle or rectangle
    groups: int = 1  # 2 if the bias has hyperparameters of its own
    scheduled: int = CONSTANT
    clips: bool = False

    @property
    def parameters(self) -> int:
        """The number of parameters P."""
        return self.features + self.bias

    @property
    def constants(self) -> tuple[int, int, int, int, int, int]:
        """The constants of a compiled step: features, P, batch, rows, trials in a tile, trials in a part."""
        return self.features, self.parameters, self.batch, self.rows, self.lanes, self.width

    @property
    def width(self) -> int:
        """The number of trials in a part."""
        vectors = next(count for most, count in VECTORS if self.parameters <= most)
        return max(1, vectors * 4 // np.dtype(self.dtype).itemsize) * GROUP

    @property
    def together(self) -> int:
        """The number of trials stepped together."""
        return PARTS * self.width if self.unrolled else self.width

    @property
    def lanes(self) -> int:
        """The number of trials in a tile."""
        row = (ROWS * self.parameters + COLUMNS + ROOM) * np.dtype(self.dtype).itemsize
        fitting = np.clip(TILE_BYTES // row, self.together, MOST_LANES)
        return int(fitting) // self.together * self.together

    @property
    def unrolled(self) -> bool:
        """Whether a step is unrolled."""
        return self.parameters <= FEW

    @property
    def limits(self) -> int:
        """The first row of ``fixed`` with limits of gradients."""
        return self.parameters + COLUMNS * self.groups

    @property
    def room(self) -> int:
        """The first row of ``fixed`` for residuals and gradients: a block of them, or all to be clipped."""
        return self.limits + LIMITS * self.clips

    @property
    def rates(self) -> int:
        """The first row of ``fixed`` with scheduled rates."""
        return self.room + self.parameters * (1 + self.clips) + ROOM

    @property
    def fixed(self) -> int:
        """The number of rows of ``fixed``."""
        return self.rates + RATE_ROWS * self.scheduled * self.groups

    @property
    def block(self) -> int:
        """The number of rows in a block."""
        return self.rows if self.unrolled else BLOCK

    @property
    def numbers(self) -> int:
        """The number of entries of a triangle or rectangle."""
        return -(-self.rows // self.block) * self.block * (self.parameters + EXTRA)


def kinds_of(hyperparams: Hyperparams, groups: list[Hyperparams]) -> NDArray[np.int64]:
    """Return each trial's kind; ``groups``: the hyperparameters of all parameters, or of the features and the bias."""
    kind = np.zeros(len(groups[0]), np.int64)
    for place, group in enumerate(groups):
        momentum, decay = group.momentum != 0, group.weight_decay != 0
        dampening = momentum & (group.dampening != 0)
        bits = MOMENTUM * momentum + DECAY * decay + NESTEROV * group.nesterov + DAMPENING * dampening
        kind += bits << BIAS_BITS * place
    kind += NORM * np.isfinite(hyperparams.clip_grad_norm) + VALUE * np.isfinite(hyperparams.clip_grad_value)
    return kind


def limit_columns(hyperparams: Hyperparams, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return (LIMITS, T) the largest norm, a squared norm that it surely does not clip, and the largest value."""
    norm, epsilon = hyperparams.clip_grad_norm, float(np.finfo(dtype).eps)
    with np.errstate(over="ignore"):
        unclipped = ((norm - EPSILON) * (1 - 8 * epsilon)) ** 2
        unclipped[norm <= EPSILON * (1 + 8 * epsilon)] = -1
        np.minimum(unclipped, np.finfo(dtype).max, out=unclipped)
        return np.array([norm, unclipped, hyperparams.clip_grad_value]).astype(dtype)
