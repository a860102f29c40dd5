"""The storage in a folder. Files are written under a temporary name, synced and renamed: they appear atomically."""

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
from sweeps.text.sanitize import visible


class FolderStorage:
    """A storage in a folder."""

    is_shared = False  # workers on other hosts might not see the folder, so the driver writes

    def __init__(self, root: Path) -> None:
        """Access a folder, which need not exist yet.

        Raises:
            StoreError: its path starts with the home of a user that is not known.
        """
        try:
            self._root = root.expanduser().absolute()
        except RuntimeError as error:
            raise StoreError(
                f"{visible(str(root))}: {root.parts[0]} is not known as a user's home; write the path in full"
            ) from error

    def locate(self, name: str = "") -> str:
        """Return a file's path as text."""
        return str(self.path(name))

    def path(self, name: str = "") -> Path:
        """Return a file's path."""
        return self._root / name if name else self._root

    def within(self, folder: str) -> FolderStorage:
        """Return the storage of a subfolder."""
        return FolderStorage(self._root / folder)

    def parent(self, levels: int) -> FolderStorage:
        """Return the storage ``levels`` folders above."""
        return FolderStorage(self._root.parents[levels - 1])

    def check_writable(self) -> None:
        """Check that the folder can be written, and create it.

        Raises:
            StoreError: it cannot be written.
        """
        probe = self._root / f".probe-{os.getpid()}"
        try:
            self._root.mkdir(parents=True, exist_ok=True)
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise StoreError(f"{self._root}: the store cannot be written: {error.strerror}") from error

    def add(self, folder: str, files: dict[str, str], empty: str) -> None:
        """Create a folder with these text files under a temporary name, and rename it.

        Raises:
            FileExistsError: the folder exists, possibly because another process has just created it.
        """
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
        """Rename a folder, then delete it."""
        path = self._root / folder
        removed = path.with_name(f".{path.name}.{secrets.token_hex(4)}.removed")
        path.rename(removed)
        shutil.rmtree(removed)

    def folders(self, folder: str) -> list[str]:
        """Return the names of the folders in a folder, which must not contain files.

        Raises:
            StoreError: the root is not a folder.
        """
        if self._root.exists() and not self._root.is_dir():
            raise StoreError(f"{self._root}: not a store, because it is not a folder")
        return self.files(folder)

    def files(self, folder: str) -> list[str]:
        """Return the names of the files in a folder."""
        path = self._root / folder
        return [entry.name for entry in path.iterdir()] if path.is_dir() else []

    def stamps(self, folder: str) -> dict[str, str]:
        """Return each file's inode, size and modification time."""
        facts = {name: (self._root / folder / name).stat() for name in self.files(folder)}
        return {name: f"{fact.st_ino} {fact.st_size} {fact.st_mtime_ns}" for name, fact in facts.items()}

    def exists(self, name: str) -> bool:
        """Return whether a file exists."""
        return (self._root / name).exists()

    def read(self, name: str) -> bytes:
        """Return a file's content."""
        return (self._root / name).read_bytes()

    @contextmanager
    def reading(self, name: str) -> Iterator[Path]:
        """Yield the file's path, which pyarrow can read."""
        yield self._root / name

    @contextmanager
    def local(self, name: str) -> Iterator[Path]:
        """Yield the file's path."""
        yield self._root / name

    @contextmanager
    def writing(self, name: str, keep: bool = False) -> Iterator[Path]:
        """Yield the path of a temporary file that replaces the file at the end of the block."""
        path = self._root / name
        path.parent.mkdir(exist_ok=True)
        with aside(path) as piece:
            yield piece

    def write(self, name: str, content: bytes) -> None:
        """Write a small file atomically."""
        with self.writing(name) as piece:
            piece.write_bytes(content)

    @contextmanager
    def writing_text(self, name: str) -> Iterator[TextIO]:
        """Yield a temporary text file that replaces the file at the end of the block."""
        path = self._root / name
        path.parent.mkdir(exist_ok=True)
        with written_aside(path) as file:
            yield file

    def remove(self, name: str) -> None:
        """Remove a file if it exists."""
        (self._root / name).unlink(missing_ok=True)

    def remove_pieces(self) -> None:
        """Remove the temporary files of a killed process. The caller must hold the lease."""
        for path in self._root.rglob("*.new"):
            path.unlink(missing_ok=True)  # a reader that writes its cache can rename its file in the meantime

    def lease(self, what: str) -> AbstractContextManager[None]:
        """Hold the folder with a lock on one of its files; see :mod:`sweeps.store.backends.local_lease`."""
        return leases.held(self._root / "lease", what)

    def holder(self) -> leases.Holder | None:
        """Return the process that holds the folder; None if there is none."""
        return leases.holder(self._root / "lease")


@contextmanager
def written_aside(path: Path) -> Iterator[TextIO]:
    """Yield a temporary text file, synced and renamed to ``path`` if the block ends without an exception."""
    with aside(path) as piece, piece.open("w", encoding="utf-8", newline="") as file:
        yield file


@contextmanager
def aside(path: Path) -> Iterator[Path]:
    """Yield the path of a temporary file, synced and renamed to ``path`` if the block ends without an exception."""
    piece = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        yield piece
        with piece.open("rb") as file:
            os.fsync(file.fileno())
        piece.rename(path)
    except BaseException:
        piece.unlink(missing_ok=True)
        raise
