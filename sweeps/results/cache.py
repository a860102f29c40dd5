"""Kept: what passes over all shards have found, kept in the sweep's folder so that the next reader need not pass again.

What is kept is named by all that it was made of: the shard files as they are on the disk, config and plan, and the code
that made it. Where any of these is another one, or nothing can be kept, everything is found anew, and nobody notices.
The file holds numbers and tables only: whoever reads it runs no code of whoever wrote it.
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

_PACKAGE = Path(__file__).parent  # whose code makes what is cached
_LEAST_TRIALS = 50_000  # of fewer, a pass takes no longer than keeping what it finds
_CLASSES: dict[str, type] = {
    kind.__name__: kind
    for kind in (
        binning.MapAxis, heatmap.Cells, heatmap.Panel, top_k.DistinctValues, top_k.TopK, aggregate.Predictions, aggregate.Aggregate,
    )
}  # fmt: skip
_DAMAGED = (OSError, EOFError, ValueError, KeyError, TypeError, pa.ArrowException)


class AggregateCache:
    """What is known of some shards as they were when this was made.

    Args:
        files: the sweep.
        shards: their indices.
        trials: how many they hold.
    """

    def __init__(self, files: SweepFiles, shards: Sequence[int], trials: int) -> None:
        """Nothing is read yet."""
        self._files, self._worthwhile = files, trials >= _LEAST_TRIALS
        stamps = files.shards.stamps() if self._worthwhile else {}
        self._stamps = {index: stamps.get(index) for index in shards}
        self._found: dict[str, Any] | None = None

    def get(self, name: str, make: Callable[[], T]) -> T:
        """What has this name; made, and kept, where it is not there."""
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
        except _DAMAGED:  # then it is written anew
            return {}
        return found

    def _write(self) -> None:
        now = self._files.shards.stamps()
        if any(now.get(index) != stamp for index, stamp in self._stamps.items()):
            return  # a shard was replaced meanwhile: nobody knows which one was seen
        with suppress(StoreError):  # whoever may only read finds it anew each time
            self._files.write_cache(encoded(self._found, self._key))

    @property
    def _key(self) -> str:
        made_by = [path.read_text("utf-8") for path in sorted(_PACKAGE.glob("*.py"))]
        facts = [sorted(self._stamps.items()), self._files.config_yaml(), self._files.manifest()]
        return hashlib.blake2b(repr([facts, made_by, np.__version__]).encode(), digest_size=16).hexdigest()


def encoded(value: Any, key: str) -> bytes:
    """A value made of the report's dataclasses, arrays, tables, tuples, dicts and plain values."""
    arrays: list[np.ndarray[Any, Any]] = []
    tree = json.dumps([key, _tree(value, arrays)]).encode()
    packed, sink = io.BytesIO(), pa.BufferOutputStream()
    np.savez(packed, np.frombuffer(tree, np.uint8), *arrays)
    with pa.CompressedOutputStream(sink, "zstd") as file:
        file.write(packed.getbuffer())
    return bytes(sink.getvalue())


def decoded(data: bytes, key: str) -> Any:
    """The value.

    Raises:
        ValueError: it has another key. Other errors where the data are damaged.
    """
    with pa.CompressedInputStream(io.BytesIO(data), "zstd") as file:
        packed = np.load(io.BytesIO(file.read()), allow_pickle=False)
    arrays = [packed[f"arr_{i}"] for i in range(len(packed.files))]
    found, tree = json.loads(arrays[0].tobytes())
    if found != key:
        raise ValueError("made of something else")
    return _value(tree, arrays[1:])


def _tree(value: Any, arrays: list[np.ndarray[Any, Any]]) -> Any:
    """The value as JSON, in which an array is its place in ``arrays``."""
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
    raise TypeError(f"{type(value).__name__} cannot be kept")


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
