"""The timeline: windows in the order of shards, whatever the order in which they finish."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweeps.pipeline.timeline import Timeline
from sweeps.planning.prepared import PreparedSweep
from sweeps.planning.shards import Shards
from sweeps.store.shard_times import ShardTimes
from sweeps.store.store import Store, SweepFiles
from tests.support.hypothesis_profiles import examples
from tests.support.stores import computed_into

SHARDS = Shards(((22, 4),))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    now = [4_000_000_000_000]
    monkeypatch.setattr("sweeps.pipeline.timeline.now_ms", lambda: now[0])
    return now


@pytest.fixture
def files(store: Store, make_prepared: Callable[..., PreparedSweep]) -> SweepFiles:
    """A sweep of six shards; their files do not matter here."""
    prepared = make_prepared(parameters={"lr": {"min": 0, "max": 0.1, "count": 22}})
    files = computed_into(store, "abcd1234", prepared)
    for index in files.shards.done():
        (files.shards.folder / f"{index:05}.parquet").unlink()
    return files


def test_shards_that_run_together_share_the_time_until_the_first_of_them_is_stored(
    files: SweepFiles, clock: list[int]
) -> None:
    began = clock[0]
    timeline = Timeline(files, SHARDS)
    for index, now in ((1, 1000), (0, 1003), (2, 2000), (3, 2010), (5, 3000), (4, 3001)):
        clock[0] = began + now
        timeline.place(SHARDS[index], SHARDS, 1.0, running=2)
    timeline.write()
    windows = [(times.start_ms - began, times.end_ms - began) for _, times in sorted(files.times.all().items())]
    assert windows == [(0, 500), (500, 1000), (1000, 1500), (1500, 2000), (2000, 2666), (2666, 3000)]
    assert files.times.all()[0] == ShardTimes(began, began + 500, 1.0, began + 1003)
    assert files.ended_ms == began + 3001


def test_a_clock_that_is_set_back_leaves_the_order(files: SweepFiles, clock: list[int]) -> None:
    timeline = Timeline(files, SHARDS)
    for index, step in enumerate((1000, -5000, 10)):
        clock[0] += step
        timeline.place(SHARDS[index], SHARDS, 1.0, running=1)
        timeline.write()
    assert_in_order(files)


def test_times_that_are_stored_together_are_those_that_are_stored_one_by_one(
    store: Store, make_prepared: Callable[..., PreparedSweep], clock: list[int]
) -> None:
    began, found = clock[0], []
    for number, together in enumerate((False, True)):
        clock[0] = began
        manifest = {"name": "n", "created": "", "started_ms": began, "trials": 22, "shards": 6, "trials_per_shard": 4}
        files = store.create(str(number), "", {"sweep_id": str(number), **manifest})
        timeline = Timeline(files, SHARDS)
        for index in (1, 0, 3, 2, 5, 4):
            clock[0] += 700
            timeline.place(SHARDS[index], SHARDS, 0.5, running=2)
            if not together:
                timeline.write()
        assert len(SweepFiles(files.folder).times.all()) == (0 if together else 6)
        timeline.write()
        found.append(SweepFiles(files.folder).times.all())
    assert found[0] == found[1]
    assert found[0].keys() == set(range(6))


def assert_in_order(files: SweepFiles) -> None:
    windows = [(times.start_ms, times.end_ms) for _, times in sorted(files.times.all().items())]
    assert all(start <= end for start, end in windows)
    assert all(earlier[1] <= later[0] for earlier, later in pairwise(windows))


@examples(30, 300)
@given(st.permutations(range(6)), st.sets(st.integers(0, 6)), st.integers(1, 4), st.lists(st.integers(0, 5000)))
def test_windows_are_in_order_after_any_interruptions(
    order: list[int], kills: set[int], running: int, seconds: list[int]
) -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        now = [4_000_000_000_000]
        patch.setattr("sweeps.pipeline.timeline.now_ms", lambda: now[0])
        where = Path(folder) / "store"
        files = Store(where).create(
            "ab", "", {"sweep_id": "ab", "name": "n", "created": "", "trials": 22, "shards": 6, "trials_per_shard": 4}
        )
        timeline = Timeline(files, SHARDS)
        for place, index in enumerate(order):
            if place in kills:
                before = dict(files.times.all())
                files = SweepFiles(files.folder)
                timeline = Timeline(files, SHARDS)
                assert files.times.all() == before
            now[0] += seconds[place] if place < len(seconds) else 700
            (files.shards.folder / f"{index:05}.parquet").touch()
            timeline.place(SHARDS[index], SHARDS, 0.5, running)
            timeline.write()
        assert files.times.all().keys() == set(range(6))
        assert_in_order(files)
