"""The interface of storages: files with names relative to a root (``shards/00000.parquet``), written atomically."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol, TextIO

from sweeps.errors import OutOfSpace, StoreError, is_out_of_space
from sweeps.store.backends.local_lease import Holder


class Lease(Protocol):
    """A lease that this process holds."""

    def check(self) -> None:
        """Check that the lease is still held.

        Raises:
            SweepHeld: it was lost.
        """


class Storage(Protocol):
    """The interface of a storage: files under one root.

    Methods raise OSError if a file cannot be read or written (FileNotFoundError if it does not exist), and
    StoreUnavailable if the storage's server is unreachable or rejects the request.
    """

    @property
    def is_shared(self) -> bool:
        """Whether workers on all hosts can access the storage."""

    def locate(self, name: str = "") -> str:
        """Return a file's path or URI."""

    def path(self, name: str = "") -> Path:
        """Return a file's path.

        Raises:
            StoreError: the files are not in a local folder.
        """

    def within(self, folder: str) -> Storage:
        """Return the storage of a subfolder."""

    def parent(self, levels: int) -> Storage:
        """Return the storage ``levels`` folders above."""

    def check_writable(self) -> None:
        """Check that the storage can be written, and create its folder.

        Raises:
            StoreError: it cannot be written.
            StoreUnavailable: its server is unreachable or rejects the request.
        """

    def add(self, folder: str, files: dict[str, str], empty: str) -> None:
        """Create a folder atomically, with these text files and, if the storage has folders, an empty subfolder.

        A storage that cannot create several files at once writes them in order; readers check for the last one.

        Raises:
            FileExistsError: the folder exists.
        """

    def discard(self, folder: str, first: str) -> None:
        """Delete a folder, starting with its file ``first``, which readers check for."""

    def folders(self, folder: str) -> list[str]:
        """Return the names of the folders in a folder."""

    def files(self, folder: str) -> list[str]:
        """Return the names of the files in a folder; none if the folder does not exist."""

    def stamps(self, folder: str) -> dict[str, str]:
        """Return a text for each file in a folder that changes whenever the file changes."""

    def exists(self, name: str) -> bool:
        """Return whether a file exists."""

    def read(self, name: str) -> bytes:
        """Return a file's content."""

    def reading(self, name: str) -> AbstractContextManager[Any]:
        """Open a file for pyarrow to read; of a remote file only the requested parts are transferred."""

    def local(self, name: str) -> AbstractContextManager[Path]:
        """Provide a file as a local path until the end of the block."""

    def writing(self, name: str, keep: bool = False) -> AbstractContextManager[Any]:
        """Open a file for pyarrow to write; it appears atomically if the block ends without an exception.

        Args:
            name: the file.
            keep: whether an existing file can be kept, because it has the same content.
        """

    def write(self, name: str, content: bytes) -> None:
        """Write a small file atomically."""

    def writing_text(self, name: str) -> AbstractContextManager[TextIO]:
        """Open a text file for writing; it appears atomically if the block ends without an exception."""

    def remove(self, name: str) -> None:
        """Remove a file if it exists."""

    def remove_pieces(self) -> None:
        """Remove the partial files of a killed process."""

    def lease(self, what: str) -> AbstractContextManager[Lease | None]:
        """Hold the lease of the root until the end of the block; ``what`` names it in messages.

        Raises:
            SweepHeld: another process holds it.
        """

    def holder(self) -> Holder | None:
        """Return the process that holds the root; None if there is none."""


def unwritten(storage: Storage, name: str, error: OSError) -> StoreError:
    """Return the error for a file that could not be written, with the reason and what to do."""
    full = is_out_of_space(error)
    help_ = "free some space" if full else "fix the cause"
    return (OutOfSpace if full else StoreError)(
        f"{storage.locate(name)}: cannot be written: {error.strerror or error}; {help_}, then resume the sweep"
    )
