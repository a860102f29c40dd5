"""Digests of a resolved config's keys, which bind a stored config to its plan."""

from __future__ import annotations

import hashlib
import json
from typing import Any

_DATA_PATH = "task.dataset.path"  # a data file can move: the plan has the digest of its content


def config_digests(document: Any) -> dict[str, str]:
    """Return a digest of each value of a config, by dotted key, without the path of the data file."""
    return {
        key: hashlib.blake2b(json.dumps(value, sort_keys=True, default=str).encode(), digest_size=8).hexdigest()
        for key, value in _flat(document, "")
        if key != _DATA_PATH
    }


def changed_keys(document: Any, digests: dict[str, str]) -> list[str]:
    """Return the keys of a config that were added, removed or changed since the digests were made."""
    found = config_digests(document)
    return sorted(key for key in {**found, **digests} if found.get(key) != digests.get(key))


def _flat(value: Any, key: str) -> list[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        return [leaf for name, part in value.items() for leaf in _flat(part, f"{key}.{name}" if key else str(name))]
    return [(key, value)]
