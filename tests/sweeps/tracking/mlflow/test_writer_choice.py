"""The guard: the bulk writer only where it is safe, and where it is not, the public client with the reason."""

import dataclasses
import sqlite3
import sys
from contextlib import closing
from typing import Any

import numpy as np
import psycopg
import pytest
from mlflow import MlflowClient
from mlflow.entities import Experiment, Run, RunInfo

from sweeps.errors import TrackingError
from sweeps.tracking.mlflow import bulk_writer, writer_choice
from sweeps.tracking.mlflow.database import rows as mlflow_rows
from sweeps.tracking.mlflow.database.connect import opened
from sweeps.tracking.mlflow.database.postgres import PostgresConnection
from sweeps.tracking.mlflow.database.rows import Grid, RunRows
from sweeps.tracking.mlflow.database.sqlite import SqliteConnection
from sweeps.tracking.mlflow.self_test import differences, rows
from sweeps.tracking.mlflow.tracker import MlflowTracker
from sweeps.tracking.mlflow.writer_choice import choose, for_run
from tests.support.postgres import Cluster
from tests.support.tracking import Files


@pytest.fixture
def uri(databases: Files | Cluster) -> str:
    return databases.new_database()


def change(uri: str, statement: str) -> None:
    if uri.startswith("sqlite"):
        with closing(sqlite3.connect(uri.removeprefix("sqlite:///"))) as connection:
            connection.execute(statement)
            connection.commit()
        return
    with psycopg.connect(uri) as connection:
        connection.execute(statement.encode())


@pytest.mark.parametrize(
    ("uri", "reason"),
    [
        ("http://127.0.0.1:5000", "the tracking URI is not that of one"),
        ("databricks", "the tracking URI is not that of one"),
        ("file:///tmp/mlruns", "the tracking URI is not that of one"),
        ("postgresql+pg8000://me@host/db", "the bulk writer supports PostgreSQL with psycopg, not with pg8000"),
        ("mysql+pymysql://me@host/db", "the bulk writer supports SQLite and PostgreSQL, not mysql"),
        ("sqlite:////tmp/x.db?timeout=1", "the bulk writer does not support SQLite URIs with options"),
    ],
)
def test_where_bulk_is_not_safe_the_client_writes_and_the_reason_is_told(uri: str, reason: str) -> None:
    choice = choose(uri, "auto")
    assert choice.name == "client"
    assert reason in choice.reason
    with pytest.raises(TrackingError, match=r"tracking\.writer: bulk cannot be used: .*; use auto or client"):
        choose(uri, "bulk")


def test_without_psycopg_it_is_told_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    choice = choose("postgresql+psycopg2://me@host/db", "auto")
    assert choice.name == "client"
    assert choice.reason.endswith("the bulk writer needs psycopg for PostgreSQL: pip install 'sgd-sweeps[postgres]'")
    with pytest.raises(TrackingError, match=r"cannot be opened: .*psycopg.*; pip install 'sgd-sweeps\[postgres\]'$"):
        MlflowTracker("postgresql+psycopg://me@host/db").check()


def test_options_that_psycopg_does_not_know_are_no_error(postgres: Cluster) -> None:
    choice = choose(f"{postgres.new_database()}?client_encoding=utf8&no_such_option=1", "auto")
    assert choice.name == "client"
    assert "the database cannot be opened: invalid connection option" in choice.reason


@pytest.mark.parametrize(
    ("statement", "reason"),
    [
        ("UPDATE alembic_version SET version_num = 'older'", "schema older, the installed MLflow needs"),
        ("DROP TABLE alembic_version", "the database has no MLflow tables"),
        ("ALTER TABLE metrics ADD COLUMN unit TEXT", "tables are not as tested"),
        ("DROP INDEX index_metrics_run_uuid", "tables are not as tested"),
        ("CREATE UNIQUE INDEX i ON runs (name)", "tables are not as tested"),
        (
            {
                "sqlite": "CREATE TRIGGER t AFTER INSERT ON runs BEGIN SELECT 1; END",
                "postgresql": "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';"
                "CREATE TRIGGER t AFTER INSERT ON runs EXECUTE FUNCTION f()",
            },
            "tables are not as tested",
        ),
    ],
)
def test_tables_that_are_not_mlflows_as_tested_get_the_client(
    uri: str, statement: str | dict[str, str], reason: str
) -> None:
    assert choose(uri, "auto").name == "bulk"
    change(uri, statement if isinstance(statement, str) else statement[uri.partition(":")[0]])
    choice = choose(uri, "auto")
    assert choice.name == "client"
    assert reason in choice.reason


def test_a_version_of_mlflow_that_was_not_tested_is_tried_first(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = rows(opened(uri))
    monkeypatch.setattr(writer_choice, "TESTED_MLFLOW", ())
    choice = choose(uri, "auto")
    assert choice.name == "bulk"
    assert "tested on a scratch database" in choice.reason
    assert rows(opened(uri)) == before

    def local(*arguments: Any) -> RunRows:
        run_rows = mlflow_rows.run_rows(*arguments)
        return dataclasses.replace(run_rows, columns=run_rows.columns | {"source_type": "LOCAL"})

    monkeypatch.setattr(bulk_writer, "run_rows", local)
    choice = choose(uri, "auto")
    assert choice.name == "client"
    assert choice.reason.endswith("it writes different rows than the public client: runs")


@pytest.mark.parametrize("kind", [SqliteConnection, PostgresConnection])
def test_the_canary_dies_of_a_missing_point(
    kind: type[SqliteConnection | PostgresConnection], postgres: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In SQLite, which is tried first; and where only the rows in PostgreSQL are others, there."""
    insert = kind.insert

    def forgetful(connection: Any, grid: Grid) -> None:
        if grid.table == "latest_metrics":
            present = grid.present.copy()
            present[np.unravel_index(present.argmax(), present.shape)] = False
            grid = dataclasses.replace(grid, present=present)
        insert(connection, grid)

    monkeypatch.setattr(kind, "insert", forgetful)
    assert differences(opened(postgres.new_database())) == "latest_metrics"


def test_users_of_postgresql_who_may_not_write_get_the_client(
    postgres: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = postgres.new_database()
    user = f"reader{uri.rpartition('/')[2]}"
    change(uri, f"CREATE ROLE {user} LOGIN PASSWORD 'p'; GRANT SELECT ON ALL TABLES IN SCHEMA public TO {user}")
    theirs = uri.replace(f"sweeps:{postgres.password}", f"{user}:p")
    assert choose(theirs, "auto").reason == "the PostgreSQL user lacks the INSERT privilege on MLflow's table runs"
    change(uri, f"GRANT INSERT, UPDATE ON ALL TABLES IN SCHEMA public TO {user}")
    assert choose(theirs, "auto").name == "bulk"
    monkeypatch.setattr(writer_choice, "TESTED_MLFLOW", ())
    change(uri, f"REVOKE TEMPORARY ON DATABASE {uri.rpartition('/')[2]} FROM PUBLIC")
    assert "the bulk writer cannot be tested in temporary tables: permission denied" in choose(theirs, "auto").reason


def test_runs_that_the_database_does_not_hold_and_other_workspaces_get_the_client(uri: str) -> None:
    client = MlflowClient(uri)
    mine, theirs = (Experiment("0", "e", "file:///a", "active", workspace=name) for name in ("default", "team"))
    parent = client.create_run("0")
    choice = choose(uri, "auto")
    assert for_run(choice, "auto", mine, parent) == choice
    assert for_run(choice, "auto", theirs, parent).reason == "the experiment 'e' is in the workspace 'team'"
    with pytest.raises(TrackingError, match="workspace 'team'"):
        for_run(choice, "bulk", theirs, parent)
    elsewhere = Run(RunInfo("f" * 32, "0", "me", "RUNNING", 1, None, "active"), parent.data)
    reason = "the database does not contain the run that the tracking server has just created"
    assert for_run(choice, "auto", mine, elsewhere).reason == reason
