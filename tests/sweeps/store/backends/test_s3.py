"""Whole sweeps in a store on S3: as in a folder, with workers that write their shards themselves."""

import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Generator, Iterable
from dataclasses import replace
from pathlib import Path

import pytest
from mlflow import MlflowClient
from typer.testing import CliRunner

from sweeps.cli import app
from sweeps.config import strict_yaml
from sweeps.config.loader import parse
from sweeps.config.schema import SweepConfig
from sweeps.errors import StoreUnavailable
from sweeps.execution.executor import Executor, ShardOutcome
from sweeps.execution.inline import InlineExecutor
from sweeps.execution.ray import RayExecutor
from sweeps.execution.worker import run_shard
from sweeps.pipeline.outcome import SweepOutcome
from sweeps.pipeline.run import create, resume, run
from sweeps.planning.prepared import PreparedSweep, prepare
from sweeps.planning.shards import Shard, ShardResult, ShardStored
from sweeps.store.store import Store, SweepFiles
from tests.support.command_line import Cli
from tests.support.documents import TASKS, document
from tests.support.doubles import Silent, Untracked
from tests.support.processes import until
from tests.support.s3 import S3Server


def swept(store: Store, config: SweepConfig, executor: Executor | None = None) -> SweepOutcome:
    prepared, executor = prepare(config), executor or InlineExecutor()
    files = create(prepared, store, executor, Untracked())
    with files.lease():
        return run(files, prepared, executor, Untracked(), Silent())


def contents(files: SweepFiles) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path, folder in files.copies() if folder == "shards" and path.is_file()}


def in_folder(files: SweepFiles) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in files.shards.folder.iterdir()}


def sweeps(*arguments: object, code: int = 0) -> str:
    """What a command says, in this process."""
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == code, f"{done.output}\n{done.exception!r}"
    return str(done.output)


class Keeping(InlineExecutor):
    """Keeps what came back from where the shards were run."""

    def __init__(self) -> None:
        self.came: list[ShardOutcome] = []

    def run(self, prepared: PreparedSweep, shards: Iterable[Shard]) -> Generator[ShardOutcome, None, None]:
        for result in super().run(prepared, shards):
            self.came.append(result)
            yield result


@pytest.mark.parametrize("name", ["line", "network"])
def test_shards_are_written_where_they_are_run_and_are_those_of_a_folder(
    s3_store: Store, store: Store, name: str
) -> None:
    config = parse(document(**TASKS[name]), "test.yaml")
    keeping = Keeping()
    outcome = swept(s3_store, config, keeping)
    assert {type(result) for result in keeping.came} == {ShardStored}
    assert contents(outcome.files) == in_folder(swept(store, config).files)
    assert len(contents(outcome.files)) == len(keeping.came)
    assert (outcome.failed_trials, outcome.unstored) == (0, {})


def test_trials_of_earlier_sweeps_are_reused(s3_store: Store, store: Store) -> None:
    first = document(parameters={"lr": {"values": [0.01, 0.02]}})
    both = document(parameters={"lr": {"values": [0.01, 0.02, 0.03, 0.05]}}, execution={"trials_per_shard": 3})
    earlier = swept(s3_store, parse(first, "test.yaml"))
    keeping = Keeping()
    outcome = swept(s3_store, parse(both, "test.yaml"), keeping)
    assert outcome.reused == {earlier.files.sweep_id: 2}
    assert {type(result) for result in keeping.came} == {ShardResult, ShardStored}  # the driver has some of the rows
    assert contents(outcome.files) == in_folder(swept(store, parse(both, "test.yaml")).files)


class Refusing:
    """A store that this worker cannot reach."""

    def write(self, result: ShardResult) -> None:
        raise StoreUnavailable("s3://b: the server refuses")


class OutOfReach(InlineExecutor):
    def run(self, prepared: PreparedSweep, shards: Iterable[Shard]) -> Generator[ShardOutcome, None, None]:
        yield from super().run(replace(prepared, shard_writer=Refusing()), shards)


def test_what_a_worker_cannot_store_the_driver_does(s3_store: Store, store: Store) -> None:
    config = parse(document(), "test.yaml")
    outcome = swept(s3_store, config, OutOfReach())
    [(reason, trials)] = outcome.unstored.items()
    assert trials == 12
    assert reason.endswith(": s3://b: the server refuses")
    assert contents(outcome.files) == in_folder(swept(store, config).files)


def test_a_shard_that_is_there_stays(s3_store: Store) -> None:
    """A worker that was thought dead comes late, when another has written the shard and it was judged anew."""
    config = parse(document(), "test.yaml")
    prepared, files = prepare(config), swept(s3_store, config).files
    result = run_shard(prepared, prepared.plan.shards()[0])
    assert isinstance(result, ShardResult)
    judged = result.table.slice(0, 2)
    files.shards.replace(0, judged)
    SweepFiles(files.where).shards.write(result)
    assert files.shards.read(0) == judged


def test_only_the_columns_that_are_asked_for_travel(s3_store: Store, s3_server: S3Server) -> None:
    points = {"record": {"points": 400, "spacing": "linear"}, "training": {"epochs": 400}}
    config = parse(document(**points, parameters={"lr": {"min": 1e-4, "max": 0.01, "count": 300}}), "test.yaml")
    config = config.model_copy(update={"execution": config.execution.model_copy(update={"trials_per_shard": 300})})
    files = swept(s3_store, config).files
    size = len(contents(files)["00000.parquet"])
    sent = {}
    for columns in (["trial", "verdict"], ["loss"], None):
        s3_server.behave(lambda method, path: "")
        table = files.shards.read(0, columns)
        sent["all" if columns is None else columns[0]] = s3_server.sent.total()
        assert len(table) == 300
    assert size > 1_000_000
    assert sent["trial"] < 0.1 * size
    assert sent["trial"] < sent["loss"] < 0.6 * size
    assert sent["all"] < 1.2 * size


class StopsServer(InlineExecutor):
    """The server goes away after so many shards."""

    def __init__(self, server: S3Server, after: int) -> None:
        self.server, self.after = server, after

    def run(self, prepared: PreparedSweep, shards: Iterable[Shard]) -> Generator[ShardOutcome, None, None]:
        for count, shard in enumerate(shards):
            if count == self.after:
                self.server.stop()
            yield run_shard(prepared, shard)


@pytest.mark.parametrize("after", [0, 2])
def test_a_server_that_goes_away_is_told_and_nothing_is_lost(
    s3_store: Store, store: Store, s3_server: S3Server, after: int
) -> None:
    config = parse(document(), "test.yaml")
    prepared = prepare(config)
    files = create(prepared, s3_store, InlineExecutor(), Untracked())
    try:
        with pytest.raises(StoreUnavailable) as raised, files.lease():
            run(files, prepared, StopsServer(s3_server, after), Untracked(), Silent())
        [line] = str(raised.value).splitlines()
        assert line.startswith(f"{files.where}/shards/0000{after}.parquet: the store cannot be reached: ")
        assert "geheim" not in line
        [line] = sweeps("show", files.sweep_id, "--store", s3_store.where, code=2).splitlines()
        assert "the store cannot be reached" in line
    finally:
        s3_server.start()
    assert files.shards.done() == set(range(after))
    resume(files, InlineExecutor(), Untracked(), Silent())
    assert contents(files) == in_folder(swept(store, config).files)


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow keeps artifacts that it is told no place for where a command is run."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "sweep.yaml"
    path.write_text(strict_yaml.write(document()))
    return path


@pytest.mark.slow
def test_every_command_works_on_s3(s3_store: Store, store: Store, config: Path, tmp_path: Path) -> None:
    on_s3, mlflow = ("--store", s3_store.where), ("--tracking-uri", store.tracking_uri)
    said = sweeps("run", config, "--executor", "inline", *on_s3, *mlflow)
    [files] = s3_store.sweeps()
    page = f"{files.where}/report/report.html"
    assert f"report:   {page}\n" in said
    assert sweeps("run", config, "--executor", "inline", *on_s3, *mlflow, "--fresh")
    [listed, _] = json.loads(sweeps("list", "--json", *on_s3))
    assert (listed["state"], listed["shards"], listed["failed shards"]) == ("reported", "3/3", 0)
    assert "12 trials" in sweeps("show", files.sweep_id[:6], *on_s3)
    assert sweeps("report", files.sweep_id, *on_s3) == f"report: {page}\n"
    assert sweeps("report", files.sweep_id, "--format", "csv", *on_s3).count("\n") == 13
    assert "equal" in sweeps("replay", files.sweep_id, 3, *on_s3)
    assert "12 of 12 trials match the plan" in sweeps("verify", files.sweep_id, *on_s3)
    elsewhere = f"sqlite:///{tmp_path / 'elsewhere.db'}"
    sweeps("log", files.sweep_id, *on_s3, "--tracking-uri", elsewhere)
    assert [place["uri"] for place in files.tracking_record.places()] == [store.tracking_uri, elsewhere]
    client = MlflowClient(store.tracking_uri)
    [experiment] = [e for e in client.search_experiments() if e.name == "small"]
    [parent] = client.search_runs(
        [experiment.experiment_id], f"tags.`sweeps.sweep_id` = '{files.sweep_id}' and tags.`sweeps.kind` = 'sweep'"
    )
    kept = Path(client.download_artifacts(parent.info.run_id, ""))
    for path, folder in files.copies():
        if folder != "report":  # which was written anew since
            assert (kept / (folder or "") / path.name).read_bytes() == path.read_bytes()
    assert {path.name for path in (kept / "report").iterdir()} == {
        "report.html", "report.md", "report.json", "trials.csv",
    }  # fmt: skip
    files._storage.remove("shards/00001.parquet")
    sweeps("resume", files.sweep_id, "--executor", "inline", *on_s3)
    assert files.state() == "reported"
    [line] = sweeps("ui", *on_s3, code=2).splitlines()
    assert "'mlflow ui --backend-store-uri URI'" in line


RUN = """
from sweeps.store.backends import s3_lease
s3_lease.LAPSES_SECONDS = 4.0
from sweeps.cli import main
main()
"""


@pytest.mark.slow
def test_a_killed_driver_is_followed_by_another(s3_store: Store, store: Store, tmp_path: Path) -> None:
    # Shards take so long that the driver is killed before the last.
    slow = document(training={"epochs": 20_000}, execution={"trials_per_shard": 1}, tracking={"trials": "none"})
    path = tmp_path / "slow.yaml"
    path.write_text(strict_yaml.write(slow))
    uri = store.tracking_uri
    command = [sys.executable, "-c", RUN, "run", path, "--executor", "inline", "--tracking-uri", uri]
    with subprocess.Popen([*command, "--store", s3_store.where], stdout=subprocess.DEVNULL) as process:
        until(lambda: s3_store.sweeps() and s3_store.sweeps()[0].shards.done(), seconds=400)
        process.send_signal(signal.SIGKILL)
    [files] = s3_store.sweeps()
    resuming = ["resume", files.sweep_id, "--executor", "inline", "--store", s3_store.where]
    assert len(files.shards.done()) < 12
    if files.state() == "running":
        [line] = sweeps(*resuming, code=2).splitlines()
        assert f"(process {process.pid} of" in line
    until(lambda: files.state() == "interrupted", seconds=200)
    sweeps(*resuming)
    assert files.state() == "reported"
    assert contents(files) == in_folder(swept(store, parse(slow, "test.yaml")).files)


@pytest.mark.slow
def test_workers_of_ray_write_their_shards(s3_store: Store, store: Store, ray_executor: RayExecutor) -> None:
    config = parse(document(), "test.yaml")
    outcome = swept(s3_store, config, ray_executor)
    assert (outcome.failed_trials, outcome.unstored) == (0, {})
    assert contents(outcome.files) == in_folder(swept(store, config).files)


WRONG = {
    "s3://": "must be s3://BUCKET/PREFIX",
    "s3:///prefix": "must be s3://BUCKET/PREFIX",
    "s3:/bucket/prefix": "must be s3://BUCKET/PREFIX",
    "s3://a//b": "must not have empty, '.' or '..' parts",
    "s3://a/../b": "must not have empty, '.' or '..' parts",
    "s3://a/b?c": "must not contain '?', '#' or control characters",
    "s3://key:geheim@bucket/x": "s3://key:***@bucket/x: must be s3://BUCKET/PREFIX",
    "gs://bucket/x": "gs://bucket/x: a store must be a folder or s3://BUCKET/PREFIX",
    "http://user:geheim@host/x": "http://user:***@host/x: a store must be a folder or s3://BUCKET/PREFIX",
    "s3://no-such-bucket/x": "no such bucket",
}


@pytest.mark.parametrize("where", WRONG)
def test_what_is_no_store_is_told_in_a_line(where: str, config: Path, store: Store, s3_server: S3Server) -> None:
    for arguments in (["run", config, "--executor", "inline", "--tracking-uri", store.tracking_uri], ["list"]):
        [*_, line] = sweeps(*arguments, "--store", where, code=2).splitlines()
        assert WRONG[where] in line
        assert "geheim" not in line


def test_without_a_tracking_uri_nothing_is_computed(config: Path, s3_store: Store) -> None:
    [line] = sweeps("run", config, "--executor", "inline", "--store", s3_store.where, code=2).splitlines()
    assert line.endswith("a shared store has no embedded MLflow; set --tracking-uri or MLFLOW_TRACKING_URI")
    assert s3_store.sweeps() == []


def test_a_server_that_does_not_heed_conditions_is_refused(s3_store: Store, s3_server: S3Server) -> None:
    s3_server.heeds_conditions = False
    try:
        with pytest.raises(StoreUnavailable, match="ignores conditional writes"):
            s3_store.check_writable()
    finally:
        s3_server.heeds_conditions = True
    s3_store.check_writable()


def test_credentials_that_the_server_refuses(s3_store: Store, s3_server: S3Server) -> None:
    def ask_for_credentials(after: bytes) -> None:
        plain = {"Content-Type": "text/plain"}
        request = urllib.request.Request(
            f"{s3_server.uri}/moto-api/reset-auth", data=after, headers=plain, method="POST"
        )
        urllib.request.urlopen(request).close()

    ask_for_credentials(b"0")
    try:
        for look in (s3_store.check_writable, s3_store.sweeps):
            with pytest.raises(StoreUnavailable) as raised:
                look()
            assert "the server rejects the request: InvalidAccessKeyId: The AWS Access Key Id you provided" in str(
                raised.value
            )
            assert os.environ["AWS_SECRET_ACCESS_KEY"] not in str(raised.value)
    finally:
        ask_for_credentials(b"inf")
    s3_store.check_writable()


@pytest.mark.slow
def test_no_credentials(s3_store: Store, cli: Cli) -> None:
    nothing = {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "", "AWS_EC2_METADATA_DISABLED": "true"}
    [line] = cli("list", "--store", s3_store.where, code=2, **nothing, HOME="/nonexistent").stderr.splitlines()
    assert "no credentials found; set AWS_ACCESS_KEY_ID" in line
