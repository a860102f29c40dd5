"""Replay: one trial among many is found without reading the others."""

from collections.abc import Callable

import pyarrow as pa
import pytest

from sweeps.errors import StoreError
from sweeps.planning.prepared import PreparedSweep
from sweeps.store.shard_files import ShardFiles
from sweeps.store.store import SweepFiles
from sweeps.verification.replay import replay_trial


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The shards that are read, in order."""
    seen: list[int] = []
    original = ShardFiles.read

    def noted(self: ShardFiles, index: int, columns: list[str] | None = None) -> pa.Table:
        seen.append(index)
        return original(self, index, columns)

    monkeypatch.setattr(ShardFiles, "read", noted)
    return seen


def test_a_trial_by_its_number_opens_one_shard(
    make_prepared: Callable[..., PreparedSweep], stored: Callable[[PreparedSweep], SweepFiles], read: list[int]
) -> None:
    files = stored(make_prepared(execution={"trials_per_shard": 2}))
    assert replay_trial(files, "7").exact
    assert read == [3]


def test_a_shard_without_the_trial_is_told(
    make_prepared: Callable[..., PreparedSweep], stored: Callable[[PreparedSweep], SweepFiles]
) -> None:
    files = stored(make_prepared(execution={"trials_per_shard": 2}))
    files.shards.replace(3, files.shards.read(3).slice(0, 1))
    with pytest.raises(StoreError, match=r"trial 7: 0 rows in shard 00003\.parquet; run 'sweeps verify' for details"):
        replay_trial(files, "7")


def test_a_trial_by_its_whole_id_is_looked_for_no_farther_than_where_it_is(
    make_prepared: Callable[..., PreparedSweep], stored: Callable[[PreparedSweep], SweepFiles], read: list[int]
) -> None:
    prepared = make_prepared(execution={"trials_per_shard": 2})
    files = stored(prepared)
    trial_id = prepared.plan.ids(prepared.plan.trials(3, 4))[0]
    assert replay_trial(files, trial_id).facts["trial"] == 3
    assert read == [0, 1, 1]
    assert replay_trial(files, trial_id[:20]).facts["trial"] == 3
    with pytest.raises(StoreError, match="12 trials have an id with this prefix in sweep abcd1234"):
        replay_trial(files, "")
