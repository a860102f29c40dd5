"""How far a sweep is, told to those who look from elsewhere; whoever cannot be told stops nothing."""

import json
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

import pytest

from sweeps.config import strict_yaml
from sweeps.execution.executor import ShardOutcome
from sweeps.execution.inline import InlineExecutor
from sweeps.execution.progress import Counts
from sweeps.pipeline.outcome import Interrupted
from sweeps.pipeline.run import create, resume, run
from sweeps.planning.prepared import PreparedSweep
from sweeps.planning.shards import ShardFailure
from sweeps.service.monitoring import progress_file
from sweeps.service.monitoring.progress_file import ProgressReporter, report_progress
from sweeps.store.store import Store, SweepFiles
from tests.support.command_line import Cli
from tests.support.documents import document
from tests.support.doubles import Silent, Stopped, Untracked
from tests.support.processes import until


def told(files: SweepFiles) -> dict[str, object]:
    record = files.progress()
    assert datetime.fromisoformat(str(record.pop("updated"))).tzinfo is not None
    return record


def never(line: str) -> None:
    raise AssertionError(line)


def test_an_interrupted_and_resumed_sweep_counts_on(make_prepared: Callable[..., PreparedSweep], store: Store) -> None:
    prepared = make_prepared()
    files = create(prepared, store, InlineExecutor(), Untracked())
    assert files.progress() == {}
    assert files.stored_trials() == 0
    stopped = Stopped(list, 1)
    with pytest.raises(Interrupted):
        run(files, prepared, stopped, Untracked(), report_progress(Silent(), files, stopped, never))
    kept = {"computed": 4, "to_compute": 12, "logged": 4, "to_log": 12, "failed": 0, "shards_in_flight": 0}
    kept |= {"trial_steps": 80, "trial_steps_planned": 240}
    assert told(files) in (kept, kept | {"logged": 0})  # the tracking may not have come to it
    assert files.stored_trials() == 4
    executor = InlineExecutor()
    resume(files, executor, Untracked(), report_progress(Silent(), files, executor, never))
    assert told(files) == kept | {"computed": 12, "logged": 12, "trial_steps": 240}


class Failing(InlineExecutor):
    """The second shard cannot be run."""

    def run(self, prepared: PreparedSweep, shards: object) -> Iterator[ShardOutcome]:
        for result in super().run(prepared, shards):  # type: ignore[arg-type]
            yield ShardFailure(result.shard, "broken") if result.shard.index == 1 else result


def test_failed_trials_are_counted_and_tried_again(make_prepared: Callable[..., PreparedSweep], store: Store) -> None:
    prepared = make_prepared()
    files = create(prepared, store, InlineExecutor(), Untracked())
    run(files, prepared, Failing(), Untracked(), report_progress(Silent(), files, Failing(), never))
    assert (told(files)["failed"], told(files)["computed"], told(files)["to_log"]) == (4, 8, 12)
    executor = InlineExecutor()
    resume(files, executor, Untracked(), report_progress(Silent(), files, executor, never))
    assert (told(files)["failed"], told(files)["computed"], told(files)["logged"]) == (0, 12, 12)


@pytest.mark.parametrize(("seconds", "least", "most"), [(0.01, 3, None), (3600.0, 1, 2)], ids=["often", "rarely"])
def test_sinks_are_told_after_each_interval_and_a_fault_of_theirs_once(
    make_prepared: Callable[..., PreparedSweep],
    stored: Callable[[PreparedSweep], SweepFiles],
    monkeypatch: pytest.MonkeyPatch,
    seconds: float,
    least: int,
    most: int | None,
) -> None:
    monkeypatch.setattr(progress_file, "_SECONDS", seconds)
    prepared = make_prepared()
    files = stored(prepared)
    seen: list[Counts] = []
    complaints: list[str] = []

    def full(counts: Counts) -> None:
        raise OSError(28, "No space left on device")

    progress = ProgressReporter(Silent(), files, None, {"disk": full, "list": seen.append}, complaints.append)
    progress.begin(0, 100_000)
    for _ in range(1000):
        progress.logged(1)
    until(lambda: len(seen) >= least, pause=0.01)
    progress.end()
    assert most is None or len(seen) == most  # at the beginning and at the end
    assert (seen[0].logged, seen[-1].logged) == (0, 1000)
    assert complaints == [
        "the sweep continues, but its progress cannot be written to disk: [Errno 28] No space left on device"
    ]


@pytest.mark.parametrize(
    ("counts", "lag"),
    [
        (Counts(computed=8, to_compute=12, logged=3, to_log=12), 5),
        (Counts(computed=8, to_compute=12, logged=3, to_log=12, failed=4), 5),
        (Counts(computed=8, to_compute=12, logged=0, to_log=3), 0),  # nobody knows which three
        (Counts(computed=12, to_compute=12, logged=1, to_log=3), 2),
        (Counts(computed=8, to_compute=12, failed=4, logged=1, to_log=3), 2),
        (Counts(computed=12, to_compute=12, logged=0, to_log=0), 0),
    ],
)
def test_lag_is_what_could_be_logged_and_is_not(counts: Counts, lag: int) -> None:
    assert counts.lag == lag


def test_a_record_that_is_damaged_or_of_another_version_is_read_as_far_as_it_goes(
    make_prepared: Callable[..., PreparedSweep], stored: Callable[[PreparedSweep], SweepFiles]
) -> None:
    files = stored(make_prepared())
    files.write_progress({"computed": 3, "logged": "three", "more": 1})
    assert Counts.of(files.progress()) == Counts(computed=3)
    (files.folder / "progress.json").write_text("{")
    assert files.progress() == {}


@pytest.mark.slow
def test_a_progress_that_cannot_be_written_is_told_and_the_sweep_goes_on(
    cli: Cli, store: Store, tmp_path: Path
) -> None:
    """The folder where progress.json would be made holds one that cannot be replaced."""
    config = tmp_path / "sweep.yaml"
    config.write_text(strict_yaml.write(document(execution={"trials_per_shard": 1})))
    cli("run", config, "--executor", "inline")
    [files] = store.sweeps()
    assert told(files)["computed"] == 12
    (files.folder / "progress.json").unlink()
    (files.folder / "progress.json").mkdir()
    for path in list(files.shards.folder.iterdir())[:2]:
        path.unlink()
    done = cli("resume", files.sweep_id, "--executor", "inline")
    [line] = done.stderr.splitlines()
    assert line == (
        "error: the sweep continues, but its progress cannot be written to progress.json: "
        f"{files.folder}/progress.json: cannot be written: Is a directory; fix the cause, then resume the sweep"
    )
    assert files.state() == "reported"
    assert json.loads(cli("list", "--json").stdout)[0]["shards"] == "12/12"
