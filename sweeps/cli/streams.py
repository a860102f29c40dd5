"""Standard streams that no reader, encoding or full disk can turn against a command.

A sweep must not stop because ``head`` has closed its pipe or a terminal was closed: what nobody can read is discarded.
Other failures to write are remembered and reported at the end.
"""

from __future__ import annotations

import errno
import io
import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, TextIO

from sweeps.errors import OutOfSpace, SweepsError, is_out_of_space

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

_NO_READER = (errno.EPIPE, errno.EIO)  # a closed pipe, a closed terminal


class _Output(io.FileIO):
    """A file descriptor that discards what it is given after its first failure."""

    failure: OSError | None = None  # the first one, unless there is only no reader

    def write(self, data: ReadableBuffer, /) -> int:
        """Write bytes, or discard them."""
        try:
            return super().write(data)
        except OSError as error:
            if error.errno not in _NO_READER:
                self.failure = error
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self.fileno())  # also for libraries and child processes
            os.close(null)
            return memoryview(data).nbytes


def secure() -> None:
    """Replace standard output and standard error, and open those standard streams that are closed."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number; otherwise the next file would get it
    if sys.stdin is None:
        sys.stdin = open(os.devnull, encoding="utf-8")  # noqa: SIM115 - for the life of the process
    sys.stdout, sys.stderr = _secured(sys.stdout, "replace"), _secured(sys.stderr, "backslashreplace")


def check_written() -> None:
    """Flush standard output, and check that all of it was written or that nobody could read it.

    Raises:
        SweepsError: it could not be written.
    """
    sys.stdout.flush()
    failure = getattr(getattr(sys.stdout.buffer, "raw", None), "failure", None)
    if failure is not None:
        message = f"standard output: cannot be written: {failure.strerror}; its end is lost"
        raise (OutOfSpace if is_out_of_space(failure) else SweepsError)(message) from failure


def _secured(stream: TextIO | None, errors: str) -> TextIO:
    """Return a stream to the same file descriptor, with a replacement for characters that its encoding lacks."""
    if stream is None:
        return open(os.devnull, "w", encoding="utf-8")
    with suppress(OSError):
        stream.flush()
    assert isinstance(stream, io.TextIOWrapper)
    return io.TextIOWrapper(
        io.BufferedWriter(_Output(stream.fileno(), "wb", closefd=False)),
        encoding=stream.encoding,
        errors=errors,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )
