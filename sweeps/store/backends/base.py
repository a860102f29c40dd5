"""What every storage does: files by names relative to its root (``shards/00000.parquet``), whole or not there."""

from __future__ import annotations

import errno
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol, TextIO

from sweeps.errors import StoreError
from sweeps.store.backends.local_lease import Holder

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Lease(Protocol):
    """What its holder has."""

    def check(self) -> None:
        """Whether it is still the holder's.

        Raises:
            SweepHeld: it was lost.
        """


class Storage(Protocol):
    """Files under one root.

    Methods raise OSError where a file cannot be read or written (FileNotFoundError where it is not there), and
    StoreUnavailable where a server is needed for it that cannot be reached or refuses.
    """

    @property
    def is_shared(self) -> bool:
        """Whether every worker reaches it, whatever its host."""

    def locate(self, name: str = "") -> str:
        """A file's path or URI."""

    def path(self, name: str = "") -> Path:
        """A file's path.

        Raises:
            StoreError: the files are not in a folder of this machine.
        """

    def within(self, folder: str) -> Storage:
        """The storage of a folder in it."""

    def parent(self, levels: int) -> Storage:
        """The storage so many folders above."""

    def check_writable(self) -> None:
        """Try to write.

        Raises:
            StoreError, StoreUnavailable: that cannot be done.
        """

    def add(self, folder: str, files: dict[str, str], empty: str) -> None:
        """A new folder with these text files and, where folders are made, an empty folder; it appears whole or not.

        Who looks at it looks at the last file first: where several files cannot appear at once, that one comes last.

        Raises:
            FileExistsError: there is one of that name.
        """

    def discard(self, folder: str, first: str) -> None:
        """Delete a folder; who looks at its file ``first`` sees all of it or none."""

    def folders(self, folder: str) -> list[str]:
        """Names of the folders in a folder."""

    def files(self, folder: str) -> list[str]:
        """Names of the files in a folder; none where there is no such folder."""

    def stamps(self, folder: str) -> dict[str, str]:
        """Of each file in a folder a text that is another one when the file is."""

    def exists(self, name: str) -> bool:
        """Whether a file is there."""

    def read(self, name: str) -> bytes:
        """A file's content."""

    def reading(self, name: str) -> AbstractContextManager[Any]:
        """What pyarrow reads a file from; of a remote one only the parts that it asks for travel."""

    def local(self, name: str) -> AbstractContextManager[Path]:
        """A file on this machine, for as long as the context lasts."""

    def writing(self, name: str, keep: bool = False) -> AbstractContextManager[Any]:
        """What pyarrow writes a file to; it is there, whole, when the block ends well.

        Args:
            name: the file.
            keep: a file that is there already may stay as it is, for it is the same.
        """

    def write(self, name: str, content: bytes) -> None:
        """Write a small file; it is there, whole, afterwards."""

    def writing_text(self, name: str) -> AbstractContextManager[TextIO]:
        """A text file; it is there, whole, when the block ends well."""

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""

    def remove_pieces(self) -> None:
        """Remove what a killed process was writing."""

    def lease(self, what: str) -> AbstractContextManager[Lease | None]:
        """Hold the root for as long as the context lasts; ``what`` is its name for messages.

        Raises:
            SweepHeld: another process has it.
        """

    def holder(self) -> Holder | None:
        """Who holds the root now."""


def unwritten(storage: Storage, name: str, error: OSError) -> StoreError:
    """What to raise where a file could not be written: which, why, and what helps."""
    help_ = "make room" if error.errno in _NO_ROOM else "mend that"
    return StoreError(f"{storage.locate(name)}: cannot be written: {error.strerror or error}; {help_}, then resume")
