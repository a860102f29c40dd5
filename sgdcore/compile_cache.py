"""CACHED: whether compiled kernels are kept on disk, in a folder that is found when this module is imported.

:func:`compiling` logs a line to the logger ``sgdcore`` when a kernel has to be compiled, which takes seconds.

numba keeps compiled code beside the source or in the user's cache folder, and raises where neither can be written, as
in a read-only container without a home. A folder for temporary files then serves until it is cleared; without one,
every process compiles again.
"""

from __future__ import annotations

import logging
import os
import stat
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numba
from numba.core.event import Event, Listener, install_listener

LOGGER = logging.getLogger("sgdcore")


def _probe() -> int:
    return 0


def _can_cache() -> bool:
    """Return whether numba finds a folder for the functions of this package."""
    try:
        numba.njit(cache=True)(_probe)
    except RuntimeError:  # numba: "cannot cache function ...: no locator available"
        return False
    return True


def _temporary() -> Path:
    """Make and return a folder that only this user can write, since numba runs the code that it reads.

    Raises:
        OSError: there is no such folder.
    """
    folder = Path(tempfile.gettempdir()) / f"sgdcore-numba-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    facts = folder.lstat()
    if not stat.S_ISDIR(facts.st_mode) or facts.st_uid != os.getuid() or facts.st_mode & 0o022:
        raise PermissionError(f"{folder} belongs to somebody else")
    return folder


def _find() -> tuple[bool, str]:
    """Return whether code can be cached, and where if that is not numba's choice."""
    if _can_cache():
        return True, ""
    try:
        folder = _temporary()
    except OSError as error:
        warnings.warn(f"no folder can keep compiled kernels ({error}): each process compiles them", stacklevel=2)
        return False, ""
    numba.config.CACHE_DIR = str(folder)  # type: ignore[attr-defined, unused-ignore]
    if not _can_cache():
        warnings.warn("no folder can keep compiled kernels: each process compiles them", stacklevel=2)
        return False, ""
    warnings.warn(f"compiled kernels are kept in {folder}; set NUMBA_CACHE_DIR to another folder", stacklevel=2)
    return True, str(folder)


CACHED, FOLDER = _find()


class _FirstPass(Listener):
    """Logs once that numba compiles; code from the disk cache passes through no compiler."""

    def __init__(self, what: str) -> None:
        self._what, self._is_logged = what, False

    def on_start(self, event: Event) -> None:
        """Log the first pass of the compiler."""
        if not self._is_logged:
            self._is_logged = True
            LOGGER.info("compiling the kernel for %s%s", self._what, "; later runs find it on disk" if CACHED else "")

    def on_end(self, event: Event) -> None:
        """Ignore the end of a pass."""


@contextmanager
def compiling(what: str) -> Iterator[None]:
    """Log a line if code in the block is compiled by numba: ``what`` names the shape that it is compiled for."""
    with install_listener("numba:run_pass", _FirstPass(what)):
        yield
