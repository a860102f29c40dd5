"""Commands without the rights of root, to which files are read-only if their mode says so."""

from __future__ import annotations

import os
from pathlib import Path

from tests.support.forked import Forked

# Gives up all capabilities of root, who remains the owner of the files; for other users it changes nothing.
_DROP = """
import ctypes
header, none = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
assert ctypes.CDLL(None).capset(header, none) == 0
"""


def unprivileged(script: str, folder: Path, *arguments: str, **environment: str) -> Forked:
    """Start a script, as ``python -c`` does, without the capabilities of root."""
    return Forked(arguments, folder, {**os.environ, **environment}, _DROP + script)
