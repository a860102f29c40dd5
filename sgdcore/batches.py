"""Sample order: the samples of each step, the same for all trials of a seed, so that comparisons are paired."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Order = Literal["sequential", "shuffled"]
_BLOCK_ENTRIES = 1 << 22  # 16 MiB of indices at a time, regardless of the run's length


def steps_per_epoch(samples: int, batch_size: int) -> int:
    """Return the number of batches in one epoch; the last short batch counts."""
    return -(-samples // batch_size)


def blocks(
    order: Order, samples: int, seeds: Sequence[int] | NDArray[np.int64], epochs: range
) -> Iterator[tuple[range, NDArray[np.int32]]]:
    """Yield sample indices in blocks of epochs.

    Each item is (epochs of the block, indices of shape (seeds, rows, samples)). Epoch e reads row
    ``(e - block.start) % rows``, so the single row of a sequential order serves every epoch.

    ``shuffled`` draws the same permutations as torch's
    ``DataLoader(shuffle=True, generator=torch.Generator().manual_seed(seed))``, so that a plain torch script sees the
    same batches.
    """
    if order == "sequential" or not epochs:
        row = np.arange(samples, dtype=np.int32)
        yield epochs, np.broadcast_to(row, (len(seeds), 1, samples))
        return
    permutations = [_permutations(samples, int(seed)) for seed in seeds]
    for drawn in permutations:
        for _ in range(epochs.start):
            next(drawn)
    rows = max(1, _BLOCK_ENTRIES // max(samples * len(seeds), 1))
    for first in range(epochs.start, epochs.stop, rows):
        block = range(first, min(first + rows, epochs.stop))
        yield block, np.array([[next(drawn) for _ in block] for drawn in permutations])


def _permutations(samples: int, seed: int) -> Iterator[NDArray[np.int32]]:
    import torch

    generator = torch.Generator().manual_seed(seed)
    while True:
        # Three draws per epoch, as in DataLoader: the base seed of its workers, the permutation, and the permutation
        # from which RandomSampler takes its (empty) remainder.
        torch.empty((), dtype=torch.int64).random_(generator=generator)
        permutation = torch.randperm(samples, generator=generator)
        torch.randperm(samples, generator=generator)
        yield permutation.numpy().astype(np.int32)
