"""A cache in the sweep's folder for results that take a pass over all shards.

The key covers everything a cached value depends on: the shard files on disk, config and plan, and the code that
computed it. On any mismatch, or if the folder is read-only, values are recomputed silently.
The file holds only numbers and tables, so reading it never runs code from its writer.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa

from sweeps.errors import StoreError
from sweeps.results import aggregate, binning, heatmap, top_k
from sweeps.store.store import SweepFiles

T = TypeVar("T")

_PACKAGE = Path(__file__).parent  # the code that computes cached values
_LEAST_TRIALS = 50_000  # for fewer, a pass takes no longer than writing the cache
_CLASSES: dict[str, type] = {
    kind.__name__: kind
    for kind in (
        binning.MapAxis, heatmap.Cells, heatmap.Panel, top_k.DistinctValues, top_k.TopK,
        aggregate.Predictions, aggregate.Aggregate,
    )
}  # fmt: skip
_DAMAGED = (OSError, EOFError, ValueError, KeyError, TypeError, pa.ArrowException)


class AggregateCache:
    """Cached values of a set of shards, in the state they had when the cache was opened.

    Args:
        files: Files of the sweep.
        shards: Indices of the shards.
        trials: Number of trials in these shards.
    """

    def __init__(self, files: SweepFiles, shards: Sequence[int], trials: int) -> None:
        """Record the state of the shards; read nothing else yet."""
        self._files, self._worthwhile = files, trials >= _LEAST_TRIALS
        stamps = files.shards.stamps() if self._worthwhile else {}
        self._stamps = {index: stamps.get(index) for index in shards}
        self._found: dict[str, Any] | None = None

    def get(self, name: str, make: Callable[[], T]) -> T:
        """Return the value cached under ``name``; if missing, compute it with ``make`` and cache it."""
        if not self._worthwhile:
            return make()
        if self._found is None:
            self._found = self._read()
        if name not in self._found:
            self._found[name] = make()
            self._write()
        found: T = self._found[name]
        return found

    def _read(self) -> dict[str, Any]:
        try:
            found: dict[str, Any] = decoded(self._files.read_cache() or b"", self._key)
        except _DAMAGED:  # the next write replaces the file
            return {}
        return found

    def _write(self) -> None:
        now = self._files.shards.stamps()
        if any(now.get(index) != stamp for index, stamp in self._stamps.items()):
            return  # a shard was replaced in the meantime, so the values may belong to either version
        with suppress(StoreError):  # in a read-only store, values are recomputed each time
            self._files.write_cache(encoded(self._found, self._key))

    @property
    def _key(self) -> str:
        made_by = [path.read_text("utf-8") for path in sorted(_PACKAGE.glob("*.py"))]
        facts = [sorted(self._stamps.items()), self._files.config_yaml(), self._files.manifest()]
        return hashlib.blake2b(repr([facts, made_by, np.__version__]).encode(), digest_size=16).hexdigest()


def encoded(value: Any, key: str) -> bytes:
    """Serialise a value built from this package's dataclasses, arrays, tables, tuples, lists, dicts and scalars."""
    arrays: list[np.ndarray[Any, Any]] = []
    tree = json.dumps([key, _tree(value, arrays)]).encode()
    packed, sink = io.BytesIO(), pa.BufferOutputStream()
    np.savez(packed, np.frombuffer(tree, np.uint8), *arrays)
    with pa.CompressedOutputStream(sink, "zstd") as file:
        file.write(packed.getbuffer())
    return bytes(sink.getvalue())


def decoded(data: bytes, key: str) -> Any:
    """Deserialise what :func:`encoded` returned.

    Raises:
        ValueError: the data were written under a different key. Damaged data raise one of ``_DAMAGED``.
    """
    with pa.CompressedInputStream(io.BytesIO(data), "zstd") as file:
        packed = np.load(io.BytesIO(file.read()), allow_pickle=False)
    arrays = [packed[f"arr_{i}"] for i in range(len(packed.files))]
    found, tree = json.loads(arrays[0].tobytes())
    if found != key:
        raise ValueError("the cache was written under a different key")
    return _value(tree, arrays[1:])


def _tree(value: Any, arrays: list[np.ndarray[Any, Any]]) -> Any:
    """Return the value as JSON; append its arrays to ``arrays`` and refer to them by index."""
    if isinstance(value, np.ndarray):
        arrays.append(value)
        return {"array": len(arrays) - 1}
    if isinstance(value, pa.Table):
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, value.schema) as writer:
            writer.write_table(value)
        arrays.append(np.frombuffer(sink.getvalue(), np.uint8))
        return {"table": len(arrays) - 1}
    if is_dataclass(value):
        parts = {field.name: _tree(getattr(value, field.name), arrays) for field in fields(value)}
        return {"class": type(value).__name__, "fields": parts}
    if isinstance(value, dict):
        return {"dict": [[_tree(key, arrays), _tree(part, arrays)] for key, part in value.items()]}
    if isinstance(value, (tuple, list)):
        return {type(value).__name__: [_tree(part, arrays) for part in value]}
    if value is None or isinstance(value, (str, int, float)):
        return value
    raise TypeError(f"values of type {type(value).__name__} cannot be cached")


def _value(tree: Any, arrays: list[np.ndarray[Any, Any]]) -> Any:
    match tree:
        case {"array": int(place)}:
            return arrays[place]
        case {"table": int(place)}:
            return pa.ipc.open_stream(pa.py_buffer(arrays[place].tobytes())).read_all()
        case {"class": str(name), "fields": dict(parts)}:
            return _CLASSES[name](**{field: _value(part, arrays) for field, part in parts.items()})
        case {"dict": list(pairs)}:
            return {_value(key, arrays): _value(part, arrays) for key, part in pairs}
        case {"tuple": list(parts)}:
            return tuple(_value(part, arrays) for part in parts)
        case {"list": list(parts)}:
            return [_value(part, arrays) for part in parts]
    return tree
