"""batches: the order of samples is that of a torch DataLoader."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from sgdcore import batches
from sgdcore.batches import blocks, steps_per_epoch


def rows(order, samples, seed, epochs):
    """One row of indices an epoch, as kernels read them from the blocks."""
    read = {}
    for block, indices in blocks(order, samples, [seed], epochs):
        for epoch in block:
            read[epoch] = indices[0, (epoch - block.start) % indices.shape[1]].tolist()
    assert list(read) == list(epochs)
    return list(read.values())


def loader_epochs(samples, batch_size, seed, epochs, shuffle=True):
    generator = torch.Generator().manual_seed(seed)
    loader = DataLoader(range(samples), batch_size, shuffle=shuffle, generator=generator)
    return [[batch.tolist() for batch in loader] for _ in range(epochs)]


@given(
    samples=st.integers(1, 30), batch_size=st.integers(1, 31), seed=st.integers(0, 2**63 - 1), epochs=st.integers(1, 4)
)
def test_shuffled_is_what_a_dataloader_draws(samples, batch_size, seed, epochs):
    expected = loader_epochs(samples, batch_size, seed, epochs)
    ours = [
        [row[first : first + batch_size] for first in range(0, samples, batch_size)]
        for row in rows("shuffled", samples, seed, range(epochs))
    ]
    assert ours == expected
    assert steps_per_epoch(samples, batch_size) == len(expected[0])


def test_sequential_is_the_given_order():
    assert rows("sequential", 4, 0, range(3)) == [[0, 1, 2, 3]] * 3


@given(first=st.integers(0, 6), more=st.integers(0, 5), seed=st.integers(0, 5))
def test_starting_later_gives_the_later_epochs(first, more, seed):
    whole = rows("shuffled", 7, seed, range(first + more))
    assert rows("shuffled", 7, seed, range(first, first + more)) == whole[first:]


@pytest.mark.parametrize("entries", [1, 14, 20, 21, 1000])
def test_blocks_change_no_epoch(monkeypatch, entries):
    whole = rows("shuffled", 7, 3, range(2, 11))
    monkeypatch.setattr(batches, "_BLOCK_ENTRIES", entries)
    assert rows("shuffled", 7, 3, range(2, 11)) == whole


@pytest.mark.parametrize("order", ["sequential", "shuffled"])
def test_no_epochs_are_one_empty_block(order):
    (block,) = blocks(order, 7, [3], range(2, 2))
    assert block[0] == range(2, 2)


def test_several_seeds_are_read_side_by_side():
    [(_, indices)] = blocks("shuffled", 7, [3, 0], range(2, 5))
    assert indices.shape == (2, 3, 7)
    assert indices[0].tolist() == rows("shuffled", 7, 3, range(2, 5))
    assert indices[1].tolist() == rows("shuffled", 7, 0, range(2, 5))


def test_epochs_differ_and_seeds_differ():
    first, second = rows("shuffled", 20, 0, range(2))
    assert first != second
    assert first != rows("shuffled", 20, 1, range(1))[0]
    assert sorted(first) == sorted(second) == list(range(20))


def test_torchs_global_random_state_is_not_touched():
    before = torch.random.get_rng_state()
    rows("shuffled", 20, 0, range(2))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_indices_are_int32():
    for order in ("sequential", "shuffled"):
        _, indices = next(blocks(order, 5, [0], range(1)))
        assert indices.dtype == np.int32
