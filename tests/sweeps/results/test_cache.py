"""What a pass over the shards has found is kept for the next reader, and never taken for what other shards hold."""

from collections.abc import Callable
from typing import Any

import pytest

from sweeps.execution.worker import run_shard
from sweeps.planning.prepared import PreparedSweep
from sweeps.results import cache, results
from sweeps.results.aggregate import Aggregate
from sweeps.results.results import Results
from sweeps.results.stability_map import stability_panels
from sweeps.store.store import SweepFiles

SWEEP: dict[str, Any] = {
    "parameters": {"lr": {"min": 0.001, "max": 0.3, "count": 30}, "momentum": {"values": [0, 0.9]}},
    "execution": {"trials_per_shard": 20},
}


@pytest.fixture
def files(
    make_prepared: Callable[..., PreparedSweep],
    stored: Callable[[PreparedSweep], SweepFiles],
    monkeypatch: pytest.MonkeyPatch,
) -> SweepFiles:
    monkeypatch.setattr(cache, "_LEAST_TRIALS", 0)
    return stored(make_prepared(**SWEEP))


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The shards of which a tally was made."""
    seen: list[int] = []
    of = Aggregate.of

    def counted(table: Any, scope: Any) -> Aggregate:
        seen.append(table["trial"][0].as_py())
        return of(table, scope)

    monkeypatch.setattr(Aggregate, "of", counted)
    return seen


def seen(loaded: Results) -> bytes:
    """All that was found, as bytes."""
    return cache.encoded([loaded.values, loaded.aggregate, stability_panels(loaded)], "")


def test_the_next_reader_finds_the_same_without_a_pass(files: SweepFiles, passes: list[int]) -> None:
    first = seen(results.load_results(files))
    assert passes == [0, 20, 40]
    assert seen(results.load_results(files)) == first
    assert passes == [0, 20, 40]


@pytest.mark.parametrize("change", ["replaced", "added", "removed", "config", "code", "damaged"])
def test_what_was_made_of_something_else_is_not_taken(
    files: SweepFiles,
    passes: list[int],
    monkeypatch: pytest.MonkeyPatch,
    change: str,
    make_prepared: Callable[..., PreparedSweep],
) -> None:
    shard = files.shards.folder / "00001.parquet"
    prepared = make_prepared(**SWEEP)
    if change == "added":
        shard.unlink()
    before = results.load_results(files)
    assert before.aggregate.trials == 40 if change == "added" else 60
    if change in ("replaced", "removed"):
        table = files.shards.read(1)
        shard.unlink()
        if change == "replaced":
            index = table.column_names.index("verdict")
            files.shards.replace(1, table.set_column(index, "verdict", [["stalled"] * 20]))
    elif change == "added":
        files.shards.write(run_shard(prepared, prepared.plan.shards()[1]))  # type: ignore[arg-type]
    elif change == "config":
        files.config_path.write_text(files.config_path.read_text().replace("name: small", "name: other"))
    elif change == "code":
        monkeypatch.setattr(cache, "_PACKAGE", files.folder)
    else:
        files.write_cache((files.read_cache() or b"")[:-100])
    passes.clear()
    found = results.load_results(files)
    assert found.aggregate.trials == (40 if change == "removed" else 60)
    assert len(passes) == (2 if change == "removed" else 3)
    if change == "replaced":
        assert found.aggregate.verdicts[2] >= 20


def test_a_shard_that_is_replaced_meanwhile_is_not_kept(files: SweepFiles) -> None:
    loaded = results.load_results(files)
    assert loaded.values
    files.shards.replace(1, files.shards.read(1))
    before = files.read_cache()
    assert loaded.aggregate.trials == 60
    assert files.read_cache() == before


def test_where_nothing_can_be_kept_nobody_notices(files: SweepFiles, passes: list[int]) -> None:
    (files.folder / "kept").mkdir()
    first = seen(results.load_results(files))
    assert seen(results.load_results(files)) == first
    assert passes == [0, 20, 40] * 2
    assert not list(files.folder.glob("*.new"))


def test_small_sweeps_keep_nothing(files: SweepFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "_LEAST_TRIALS", 61)
    assert results.load_results(files).aggregate.trials == 60
    assert files.read_cache() is None
