"""The storage backends of a store: a folder or a bucket on S3, behind one interface."""

from __future__ import annotations

import re
from pathlib import Path

from sweeps.errors import StoreError
from sweeps.store.backends.base import Storage
from sweeps.store.backends.local import FolderStorage, aside, written_aside
from sweeps.text.redact import redact_uri
from sweeps.text.sanitize import visible

__all__ = ["FolderStorage", "Storage", "aside", "storage_at", "written_aside"]

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/")


def storage_at(where: str | Path) -> Storage:
    """Return the storage at a folder's path or an ``s3://bucket/prefix`` URI, without accessing it.

    Raises:
        StoreError: ``where`` is neither, or the library for it is not installed.
    """
    scheme = _SCHEME.match(str(where))
    if scheme is None:
        return FolderStorage(Path(where))
    if scheme[1].lower() != "s3":
        raise StoreError(f"{_shown(where)}: a store must be a folder or s3://BUCKET/PREFIX")
    from sweeps.store.backends.s3 import S3Storage

    return S3Storage.at(str(where))


def _shown(where: str | Path) -> str:
    """Return a URI for messages, without a password."""
    return visible(redact_uri(str(where)))
