"""MLflow databases and servers for tests."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path


class Files:
    """SQLite databases with the interface of tests.support.postgres.Cluster."""

    def __init__(self, folder: Path, migrated: Path) -> None:
        self.folder, self.migrated = folder, migrated
        self.folder.mkdir()

    def new_database(self) -> str:
        return self.copy(f"sqlite:///{self.migrated}")

    def copy(self, uri: str) -> str:
        path = self.folder / f"{len(list(self.folder.glob('*.db')))}.db"
        shutil.copy(uri.removeprefix("sqlite:///"), path)
        return f"sqlite:///{path}"


@dataclass(frozen=True)
class TrackingServer:
    """A real MLflow server and its SQLite database."""

    uri: str
    database: Path
