"""Sample order: the samples of each step, the same for all trials of a seed, so that comparisons are paired."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from sgdcore.torch_random import TorchGenerator

Order = Literal["sequential", "shuffled"]
_BLOCK_ENTRIES = 1 << 22  # 16 MiB of indices at a time, regardless of the run's length
_MAX_OWN_SAMPLES = 4096  # above it, torch's faster shuffle repays its import


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
    rows = max(1, _BLOCK_ENTRIES // max(samples * len(seeds), 1))
    draws = [_draw(samples, int(seed)) for seed in seeds]
    for first in range(0, epochs.start, rows):
        for draw in draws:
            draw(min(rows, epochs.start - first))
    for first in range(epochs.start, epochs.stop, rows):
        block = range(first, min(first + rows, epochs.stop))
        yield block, np.array([draw(len(block)) for draw in draws])


def _draw(samples: int, seed: int) -> Callable[[int], NDArray[np.int32]]:
    """Return a function that draws the orders of the next epochs, of shape (epochs, samples)."""
    if samples <= _MAX_OWN_SAMPLES:
        return partial(TorchGenerator(seed).data_loader_orders, samples)
    import torch

    generator = torch.Generator().manual_seed(seed)

    def draw(epochs: int) -> NDArray[np.int32]:
        orders = np.empty((epochs, samples), dtype=np.int32)
        for order in orders:  # the draws of TorchGenerator.data_loader_orders
            torch.empty((), dtype=torch.int64).random_(generator=generator)
            order[:] = torch.randperm(samples, generator=generator)
            torch.randperm(samples, generator=generator)
        return orders

    return draw
