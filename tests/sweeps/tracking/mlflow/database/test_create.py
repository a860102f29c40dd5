"""A kill while MLflow's database is made: no database or a whole one; and what earlier versions have left."""

import os
import shutil
import signal
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.version import VERSION

from sweeps.errors import TrackingError
from sweeps.store.store import Store
from sweeps.tracking.mlflow.tracker import MlflowTracker
from tests.support.forked import Forked

# Ends the process as SIGKILL does when SQLite has executed so many statements that write, wherever they go.
KILLED = """
import os, signal, sqlalchemy
from sqlalchemy import event
from sqlalchemy.engine import Engine
left = [{count}]
@event.listens_for(Engine, "after_cursor_execute")
def counted(connection, cursor, statement, *_):
    left[0] -= statement.lstrip().upper().startswith(("CREATE", "ALTER", "DROP", "INSERT", "UPDATE"))
    if left[0] < 0:
        os.kill(os.getpid(), signal.SIGKILL)
"""
CHECKED = """
from sweeps.tracking.mlflow.tracker import MlflowTracker
MlflowTracker({uri!r}).check()
"""
IN_PLACE = """
from mlflow.store.db.utils import _initialize_tables
_initialize_tables(sqlalchemy.create_engine({uri!r}))
"""


@pytest.fixture
def fresh(tmp_path: Path, migrated_database: Path) -> Store:
    """A store without a database; ``migrated_database`` has filled the cache of these tests."""
    home = Store(tmp_path / "fresh")
    home.check_writable()
    return home


def started(script: str, folder: Path, **environment: str) -> Forked:
    return Forked((), folder, {**os.environ, **environment}, script)


def killed(script: str, folder: Path, **environment: str) -> None:
    process = started(script, folder, **environment)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == -signal.SIGKILL, errors


def is_usable(store: Store) -> bool:
    tracker = MlflowTracker(store.tracking_uri, store.artifacts)
    tracker.check()
    return tracker.choice.name == "bulk" and "experiments" in tables(store.database)


def tables(path: Path) -> set[str]:
    with closing(sqlite3.connect(path)) as database:
        return {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}


@pytest.mark.slow
@pytest.mark.parametrize("count", [0, 3, 40, 150])
def test_a_kill_while_the_database_is_made_leaves_none(fresh: Store, tmp_path: Path, count: int) -> None:
    script = KILLED.format(count=count) + CHECKED.format(uri=fresh.tracking_uri)
    killed(script, tmp_path, XDG_CACHE_HOME=str(tmp_path / "cache"))
    assert not fresh.database.exists()
    assert is_usable(fresh)


@pytest.mark.slow
@pytest.mark.parametrize("count", [0, 3, 40, 150])
def test_what_a_kill_has_left_in_place_is_set_aside(fresh: Store, tmp_path: Path, count: int) -> None:
    killed(KILLED.format(count=count) + IN_PLACE.format(uri=fresh.tracking_uri), tmp_path)
    before = tables(fresh.database)
    tracker = MlflowTracker(fresh.tracking_uri, fresh.artifacts)
    tracker.check()
    [moved] = fresh.root.glob("mlflow.db.half-made-*")
    renamed = f"{fresh.database} is incomplete and empty; renamed it to {moved.name} and created a new database"
    assert tracker.notices == [renamed]
    assert tables(moved) == before
    assert is_usable(fresh)
    again = MlflowTracker(fresh.tracking_uri, fresh.artifacts)
    again.check()
    assert again.notices == []


def test_a_journal_without_its_database_is_not_applied_to_a_new_one(fresh: Store) -> None:
    journal = fresh.database.with_name("mlflow.db-wal")
    journal.write_bytes(b"changes of a database that was removed")
    assert is_usable(fresh)


def test_a_database_of_an_earlier_mlflow_with_runs_is_left_as_it_is(store: Store) -> None:
    client = MlflowClient(store.tracking_uri)
    client.create_run(client.create_experiment("mine"))
    with closing(sqlite3.connect(store.database)) as database, database:
        database.execute("UPDATE alembic_version SET version_num = '451aebb31d03'")
    tracker = MlflowTracker(f"{store.tracking_uri.removesuffix('mlflow.db')}./mlflow.db")  # past MLflow's own cache
    with pytest.raises(TrackingError, match="out-of-date database schema"):
        tracker.check()
    assert tracker.notices == []
    assert [path.name for path in store.root.iterdir() if "half-made" in path.name] == []


@pytest.mark.slow
@pytest.mark.parametrize("is_half_made", [False, True])
def test_processes_that_start_at_once_share_one_database(fresh: Store, tmp_path: Path, is_half_made: bool) -> None:
    if is_half_made:
        killed(KILLED.format(count=40) + IN_PLACE.format(uri=fresh.tracking_uri), tmp_path)
    script = f"""
from sweeps.store.store import Store
from sweeps.tracking.mlflow.tracker import MlflowTracker
store = Store({str(fresh.root)!r})
tracker = MlflowTracker(store.tracking_uri, store.artifacts)
tracker.check()
tracker.client.create_experiment(str(__import__("os").getpid()), str(store.artifacts))
"""
    processes = [started(script, tmp_path) for _ in range(4)]
    for process in processes:
        assert process.communicate(timeout=300)[1] == ""
    names = {found.name for found in MlflowClient(fresh.tracking_uri).search_experiments()}
    assert names == {"Default", *(str(process.pid) for process in processes)}
    assert len(list(fresh.root.glob("mlflow.db.half-made-*"))) == is_half_made


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["cut", "none", "a file in place of the folder"])
def test_a_cache_that_cannot_be_used_is_replaced_or_done_without(
    fresh: Store, migrated_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    cache = tmp_path / "cache"
    template = cache / "sgd-sweeps" / f"mlflow-{VERSION}.db"
    if damage == "a file in place of the folder":
        cache.touch()
    else:
        template.parent.mkdir(parents=True)
        shutil.copy(migrated_database, template)
    if damage == "cut":
        template.write_bytes(template.read_bytes()[:300_000])
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    assert is_usable(fresh)
    assert cache.is_file() or tables(template) == tables(fresh.database)


@pytest.mark.parametrize("name", ["job_feature%2Fx", "a%20b", "100%", "a b#c", "ä'\"&=;"])
def test_a_store_with_any_name_is_written_and_read(tmp_path: Path, name: str) -> None:
    home = Store(tmp_path / name / "store")
    home.check_writable()
    assert is_usable(home)
    tracker = MlflowTracker(home.tracking_uri, home.artifacts)
    tracker.open("here")
    tracker.check_readable()
    assert MlflowClient(home.tracking_uri).get_experiment_by_name("here") is not None
    assert {path.name for path in tmp_path.iterdir()} == {name}
