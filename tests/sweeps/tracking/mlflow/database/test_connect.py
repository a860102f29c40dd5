"""``tracking.database``: a tracking server's links and artifacts, its database's speed, and no password anywhere."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from mlflow import MlflowClient

from sweeps.config.loader import parse
from sweeps.errors import ConfigError, TrackingError
from sweeps.pipeline.factories import tracker_for
from sweeps.planning.prepared import PreparedSweep
from sweeps.store.store import Store, SweepFiles
from sweeps.text.redact import redact_uri
from sweeps.tracking.base import TrackedSweep
from sweeps.tracking.mlflow.database.connect import opened
from sweeps.tracking.mlflow.self_test import rows
from sweeps.tracking.mlflow.server.ui import mlflow_server
from sweeps.tracking.mlflow.tracker import MlflowTracker
from tests.support.command_line import Cli
from tests.support.documents import document
from tests.support.postgres import Cluster

SERVER = "http://127.0.0.1:1"
SWEEP_FILE = """
name: team
task: {dataset: {kind: line}}
training: {epochs: 2}
parameters: {lr: {values: [0.01, 0.02, 0.03]}}
tracking: {database: $TEAM_DATABASE}
"""


@pytest.fixture(scope="module")
def served(postgres: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """The address of an MLflow server on PostgreSQL, and its database."""
    uri = postgres.new_database()
    with mlflow_server(uri, tmp_path_factory.mktemp("server") / "artifacts") as (address, _):
        yield address, uri


def log_all(tracker: MlflowTracker, sweep: TrackedSweep) -> dict[str, str]:
    told = tracker.start(sweep)
    for table in sweep.files.shards.tables():
        assert sum(tracker.log_trials(table, sweep.files.shards.metadata()["steps"])) == len(table)
    tracker.end_trials()
    tracker.finish(sweep, {"trials": 12.0}, {})
    return told


@pytest.mark.slow
def test_trials_go_to_the_servers_database_and_are_the_servers_own(
    served: tuple[str, str], make_prepared: Callable[..., PreparedSweep], stored: Callable[[PreparedSweep], SweepFiles]
) -> None:
    address, uri = served
    prepared = make_prepared()
    files = stored(prepared)
    found = []
    for database, writer in ((uri, "bulk"), (None, "client")):
        config = prepared.config.model_copy(update={"experiment": writer})
        tracker = MlflowTracker(address, None, database)
        tracker.check()
        told = log_all(tracker, TrackedSweep(files, config, files.manifest(), prepared.plan.parameter_names))
        assert told["writer"] == writer, told
        client = MlflowClient(address)
        children = client.search_runs([told["experiment_id"]], "tags.`mlflow.parentRunId` != ''", max_results=100)
        assert len(children) == 12
        assert {file.path for file in client.list_artifacts(told["run_id"])} >= {"config.yaml", "shards"}
        told_ids = {told["experiment_id"]: "experiment", told["run_id"]: "parent", writer: "experiment"}
        run_ids = {run.info.run_id: run.data.tags["sweeps.trial_id"] for run in children}
        records = (without(run.to_dictionary(), told_ids | run_ids) for run in children)
        found.append(sorted(json.dumps(record, sort_keys=True) for record in records))
    assert found[0] == found[1]
    [parent] = {run.data.tags["mlflow.parentRunId"] for run in children}
    assert parent == told["run_id"]


def without(value: Any, names: dict[str, str]) -> Any:
    """A run's record with names for ids, and without what clocks say."""
    if isinstance(value, dict):
        return {key: without(part, names) for key, part in value.items() if "time" not in key}
    if isinstance(value, list):
        return [without(part, names) for part in value]
    return "/".join(names.get(part, part) for part in value.split("/")) if isinstance(value, str) else value


@pytest.mark.slow
def test_the_password_is_nowhere(served: tuple[str, str], postgres: Cluster, cli: Cli) -> None:
    address, uri = served
    (cli.folder / "team.yaml").write_text(SWEEP_FILE)
    to_server = ("--tracking-uri", address, "--executor", "inline")
    done = cli("run", "team.yaml", *to_server, TEAM_DATABASE=uri)
    assert "writer:   bulk (MLflow's tables are as tested" in done.stdout
    again = cli(
        "resume", next((cli.folder / "store" / "sweeps").iterdir()).name, "--executor", "inline", TEAM_DATABASE=uri
    )
    assert "writer:   bulk" in again.stdout
    wrong = uri.replace("/database", "/nowhere")
    told = cli("run", "team.yaml", *to_server, code=2, TEAM_DATABASE=wrong)
    assert "the database cannot be opened" in told.stderr
    written = [path.read_bytes() for path in cli.folder.rglob("*") if path.is_file() and path.suffix != ".db"]
    written += [text.encode() for run in (done, again, told) for text in (run.stdout, run.stderr)]
    written.append(repr(rows(opened(uri))).encode())
    assert len(written) > 10
    assert not any(postgres.password.encode() in text for text in written)


@pytest.mark.slow
def test_another_servers_database_is_refused_before_anything_is_computed(
    served: tuple[str, str], postgres: Cluster
) -> None:
    address, _ = served
    other = postgres.new_database()
    MlflowClient(address).create_experiment("only here")
    with pytest.raises(TrackingError, match=r"is not the database of the tracking server: .* 'only here' is not in it"):
        MlflowTracker(address, None, other).check()


@pytest.mark.parametrize("given", ["postgresql://me:secret@host/db", {"uri": "secret"}, "$secret-", "${secret}", 1])
def test_sweep_files_name_a_variable_and_hold_no_uri(given: Any) -> None:
    with pytest.raises(
        ConfigError, match=r"tracking\.database: must name the environment variable that holds the URI, such as"
    ) as told:
        parse(document(tracking={"database": given, "unknown": 1}), "x")
    assert "secret" not in str(told.value)


def test_what_a_variable_must_hold(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TEAM_DATABASE", raising=False)
    with pytest.raises(TrackingError, match=r"^tracking.database: the environment variable TEAM_DATABASE is not set$"):
        tracker_for(store, SERVER, None, "$TEAM_DATABASE")
    monkeypatch.setenv("TEAM_DATABASE", "mysql://me:secret@host/db")
    with pytest.raises(TrackingError, match=r"^tracking.database: must be a postgresql:// or sqlite:/// URI$"):
        tracker_for(store, SERVER, None, "$TEAM_DATABASE")
    assert tracker_for(store, None, None, "$TEAM_DATABASE").uri == store.tracking_uri  # no server: of no use


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("postgresql://me:p@ss/w:rd@host/db", "postgresql://me:***@host/db"),
        (
            "postgresql://host/db?user=me&password=secret&sslpassword=s",
            "postgresql://host/db?user=me&password=***&sslpassword=***",
        ),
        ("sqlite:////tmp/a:b/c@d.db", "sqlite:////tmp/a:b/c@d.db"),
    ],
)
def test_no_part_of_a_password_is_shown(uri: str, shown: str) -> None:
    assert redact_uri(uri) == shown
