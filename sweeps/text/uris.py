"""URIs of databases: quoted paths, and absolute locations."""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import quote

_SQLITE = re.compile(r"(sqlite(?:\+\w+)?:///)([^?]+)(.*)")
_NOT_FOLDERS = ("databricks", "databricks-uc", "uc")  # tracking URIs without a colon that are not folders


def sqlite_uri(path: Path) -> str:
    """Return the SQLAlchemy URI of an SQLite file."""
    # MLflow creates the parent folder as it is written in a URI with "sqlite:", quoted, but not if a driver is named.
    scheme = "sqlite+pysqlite" if "%" in str(path) else "sqlite"
    return f"{scheme}:///{_quoted(str(path))}"


def read_only_uri(path: Path) -> str:
    """Return the SQLAlchemy URI that opens an SQLite file without writing anything, not even a lock, beside it."""
    # SQLAlchemy decodes the URI once, and SQLite decodes the file: URI inside it once more.
    file = quote(f"file:{quote(str(path))}", safe="/:")
    log = path.with_name(f"{path.name}-wal")
    how = "mode=ro" if log.exists() and log.stat().st_size else "immutable=1"
    return f"sqlite+pysqlite:///{file}?{how}&uri=true"


def absolute_uri(uri: str) -> str:
    """Return a tracking URI that means the same from every folder: that of a relative file becomes absolute."""
    if sqlite := _SQLITE.fullmatch(uri):
        scheme, path, options = sqlite.groups()
        if os.path.isabs(path) or path.startswith((":memory:", "file:")):
            return uri
        return f"{scheme}{_quoted(os.getcwd())}/{os.path.normpath(path)}{options}"
    if uri and ":" not in uri and uri not in _NOT_FOLDERS:
        return os.path.abspath(uri)
    return uri


def _quoted(path: str) -> str:
    # Nothing else is special there: other characters stay as users write them, and as earlier versions stored them.
    return path.replace("%", "%25")
