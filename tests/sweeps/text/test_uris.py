"""URIs of databases."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy

from sweeps.text.uris import absolute_uri, read_only_uri, sqlite_uri


@pytest.mark.parametrize("name", ["m.db", "a%2Fb.db", "100%.db", "a b#c.db", "a?b.db", "ä&='\".db"])
def test_a_path_in_a_uri_is_the_same_path(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("CREATE TABLE here (x)")
    uris = [read_only_uri(path)] if "?" in name else [sqlite_uri(path), read_only_uri(path)]
    for uri in uris:
        engine = sqlalchemy.create_engine(uri)
        assert sqlalchemy.inspect(engine).get_table_names() == ["here"]
        engine.dispose()
    assert [file.name for file in tmp_path.iterdir()] == [name]


def test_relative_files_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = tmp_path / "a%b"
    here.mkdir()
    monkeypatch.chdir(here)
    assert absolute_uri("sqlite:///m.db") == f"sqlite:///{tmp_path}/a%25b/m.db"
    assert absolute_uri("sqlite:///./x/../m.db?timeout=9") == f"sqlite:///{tmp_path}/a%25b/m.db?timeout=9"
    assert absolute_uri("mlruns") == f"{here}/mlruns"
    for same in ("sqlite:////a/m.db", "sqlite://", "sqlite:///:memory:", "http://h:5000", "databricks", "/a/b", ""):
        assert absolute_uri(same) == same
