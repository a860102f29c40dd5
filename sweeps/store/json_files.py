"""JSON files of a sweep, which hold one object each and are written atomically."""

from __future__ import annotations

import json
from typing import Any

from sweeps.errors import StoreError
from sweeps.store.backends.base import Storage, unwritten


def read_text(storage: Storage, name: str) -> str:
    """Return a file's text.

    Raises:
        StoreError: it cannot be read.
    """
    try:
        return storage.read(name).decode()
    except (OSError, ValueError) as error:
        raise StoreError(f"{storage.locate(name)}: cannot be read: {error}") from error


def read_json(storage: Storage, name: str) -> dict[str, Any]:
    """Return the JSON object in a file.

    Raises:
        StoreError: it cannot be read, or is not a JSON object.
    """
    where = storage.locate(name)
    try:
        document = json.loads(read_text(storage, name))
    except (ValueError, RecursionError) as error:
        raise StoreError(f"{where}: cannot be read: {error}") from error
    if not isinstance(document, dict):
        raise StoreError(f"{where}: damaged: not a JSON object")
    return document


def write_json(storage: Storage, name: str, document: dict[str, Any], indent: int | None = None) -> None:
    """Write a JSON object atomically.

    Raises:
        StoreError: it cannot be written.
    """
    try:
        with storage.writing_text(name) as file:
            file.write(json.dumps(document, indent=indent) + "\n")
    except OSError as error:
        raise unwritten(storage, name, error) from error
