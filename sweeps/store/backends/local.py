"""A folder's storage: files are written aside, synced and renamed, so they are there or they are not."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TextIO

from sweeps.errors import StoreError
from sweeps.store.backends import local_lease as leases


class FolderStorage:
    """Files in a folder."""

    is_shared = False  # other hosts may or may not see the folder: the driver writes

    def __init__(self, root: Path) -> None:
        """The folder, which need not exist yet."""
        self._root = root.expanduser().absolute()

    def locate(self, name: str = "") -> str:
        """A file's path."""
        return str(self.path(name))

    def path(self, name: str = "") -> Path:
        """A file's path."""
        return self._root / name if name else self._root

    def within(self, folder: str) -> FolderStorage:
        """The storage of a folder in it."""
        return FolderStorage(self._root / folder)

    def parent(self, levels: int) -> FolderStorage:
        """The storage so many folders above."""
        return FolderStorage(self._root.parents[levels - 1])

    def check_writable(self) -> None:
        """Make the folder and write to it.

        Raises:
            StoreError: that cannot be done.
        """
        probe = self._root / f".probe-{os.getpid()}"
        try:
            self._root.mkdir(parents=True, exist_ok=True)
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise StoreError(f"{self._root}: the store cannot be written: {error.strerror}") from error

    def add(self, folder: str, files: dict[str, str], empty: str) -> None:
        """A new folder with these text files, made aside and renamed; two may make the same one at once."""
        path = self._root / folder
        made = path.with_name(f".{path.name}.{secrets.token_hex(4)}.new")
        (made / empty).mkdir(parents=True)
        for name, text in files.items():
            with written_aside(made / name) as file:
                file.write(text)
        try:
            made.rename(path)
        except OSError as error:
            if not path.exists():
                raise
            shutil.rmtree(made)
            raise FileExistsError(error.errno, error.strerror, str(path)) from error

    def discard(self, folder: str, first: str) -> None:
        """Delete a folder, renamed before."""
        path = self._root / folder
        removed = path.with_name(f".{path.name}.{secrets.token_hex(4)}.removed")
        path.rename(removed)
        shutil.rmtree(removed)

    def folders(self, folder: str) -> list[str]:
        """Names of the folders in a folder."""
        if self._root.exists() and not self._root.is_dir():
            raise StoreError(f"{self._root}: is not a folder, and no store")
        return self.files(folder)  # there are no others where this is asked

    def files(self, folder: str) -> list[str]:
        """Names of the files in a folder."""
        path = self._root / folder
        return [entry.name for entry in path.iterdir()] if path.is_dir() else []

    def stamps(self, folder: str) -> dict[str, str]:
        """Of each file inode, size and time."""
        facts = {name: (self._root / folder / name).stat() for name in self.files(folder)}
        return {name: f"{fact.st_ino} {fact.st_size} {fact.st_mtime_ns}" for name, fact in facts.items()}

    def exists(self, name: str) -> bool:
        """Whether a file is there."""
        return (self._root / name).exists()

    def read(self, name: str) -> bytes:
        """A file's content."""
        return (self._root / name).read_bytes()

    @contextmanager
    def reading(self, name: str) -> Iterator[Path]:
        """Pyarrow reads the file itself."""
        yield self._root / name

    @contextmanager
    def local(self, name: str) -> Iterator[Path]:
        """The file itself."""
        yield self._root / name

    @contextmanager
    def writing(self, name: str, keep: bool = False) -> Iterator[Path]:
        """The path of a file beside it that takes its place."""
        path = self._root / name
        path.parent.mkdir(exist_ok=True)
        with aside(path) as piece:
            yield piece

    def write(self, name: str, content: bytes) -> None:
        """As writing()."""
        with self.writing(name) as piece:
            piece.write_bytes(content)

    @contextmanager
    def writing_text(self, name: str) -> Iterator[TextIO]:
        """A text file beside it that takes its place."""
        path = self._root / name
        path.parent.mkdir(exist_ok=True)
        with written_aside(path) as file:
            yield file

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""
        (self._root / name).unlink(missing_ok=True)

    def remove_pieces(self) -> None:
        """Remove what a killed process was writing; whoever holds the lease may."""
        for path in self._root.rglob("*.new"):
            path.unlink(missing_ok=True)  # a reader may have ended the writing of what it keeps

    def lease(self, what: str) -> AbstractContextManager[None]:
        """A lock on a file of the folder; see :mod:`sweeps.store.backends.local_lease`."""
        return leases.held(self._root / "lease", what)

    def holder(self) -> leases.Holder | None:
        """Who holds the folder now."""
        return leases.holder(self._root / "lease")


@contextmanager
def written_aside(path: Path) -> Iterator[TextIO]:
    """A text file beside ``path`` that takes its place, whole and on the disk, when the block ends well."""
    with aside(path) as piece, piece.open("w", encoding="utf-8", newline="") as file:
        yield file


@contextmanager
def aside(path: Path) -> Iterator[Path]:
    """The path of a file beside ``path`` that takes its place, as written_aside()."""
    piece = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        yield piece
        with piece.open("rb") as file:
            os.fsync(file.fileno())
        piece.rename(path)
    except BaseException:
        piece.unlink(missing_ok=True)
        raise
