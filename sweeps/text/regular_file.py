"""Bounded reads of files that users name, which can be pipes, devices or files of /proc that never end."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path


def read_regular(path: Path, most: int) -> bytes:
    """Return the content of a regular file of at most ``most`` bytes; never wait for data.

    Raises:
        OSError: it cannot be read, is too large, is not a regular file, or has no size, as the files of /proc.
        ValueError: the path is not a valid file name.
    """
    _check(path.stat(), most)  # before it is opened, which has effects on some devices
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb") as file:
        _check(os.fstat(descriptor), most)
        content = file.read(most + 1)
    if len(content) > most:
        raise OSError(errno.EFBIG, f"more than {most:,} bytes")  # it grows
    return content


def _check(status: os.stat_result, most: int) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "not a regular file")
    if not status.st_size:
        raise OSError(errno.ENODATA, "it has no size: it is empty, or not on a disk, as the files of /proc")
    if status.st_size > most:
        raise OSError(errno.EFBIG, f"{status.st_size:,} bytes; at most {most:,} are allowed")
