"""Shard times: trials share their shard's window."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sweeps.store.shard_times import ShardTimes
from sweeps.store.sweep_files import SweepFiles


@pytest.mark.parametrize("trials", [1, 3, 64, 1000])
@pytest.mark.parametrize("seconds", [0.0, 0.5, 1.0, 2.0])
def test_the_starts_of_trials_differ_if_there_is_a_millisecond_for_each(trials: int, seconds: float) -> None:
    times, share = ShardTimes(5000, 7000, seconds, 7000), max(1, round(1000 * seconds / trials))
    starts, ends = times.of(trials)
    assert starts[0] == 5000
    assert (np.diff(starts) > 0).all()
    assert ends[-1] <= 7000
    assert (ends[starts + share <= 7000] == (starts + share)[starts + share <= 7000]).all()


def test_more_trials_than_milliseconds_are_spread_over_all_of_them() -> None:
    times = ShardTimes(5000, 5100, 0.1, 5100)
    starts, ends = times.of(40_000)
    assert (np.diff(starts) >= 0).all()
    np.testing.assert_array_equal(np.unique(starts), np.arange(5000, 5100))
    assert (times.last_ms(40_000), ends[-1]) == (5100, 5100)


def test_a_shard_computed_after_its_window_ends_when_it_is_stored() -> None:
    assert ShardTimes(5000, 5000, 60.0, 90_000).last_ms(2) == 90_000


def test_times_of_many_shards_are_read_back(tmp_path: Path) -> None:
    files = SweepFiles(tmp_path)
    times = {index: ShardTimes(index, index + 1, 0.5, index + 2) for index in range(0, 600, 7)}
    for index, each in times.items():
        files.times.write({index: each})
    assert SweepFiles(tmp_path).times.all() == times
    assert SweepFiles(tmp_path).times.at(1) is None
    assert len(list((tmp_path / "times").iterdir())) == 3
