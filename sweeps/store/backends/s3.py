"""The storage on S3 or a compatible server. A file is an object that appears atomically with a single PUT.

Operations that only one of several processes may perform use conditional writes (``If-None-Match``, ``If-Match``),
which AWS has supported since November 2024. Servers that ignore the conditions are rejected.
"""

from __future__ import annotations

import errno
import importlib.util
import io
import re
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

import pyarrow as pa

from sweeps.errors import StoreError, StoreUnavailable
from sweeps.store.backends import s3_lease
from sweeps.store.backends.local_lease import Holder
from sweeps.store.backends.s3_client import Bucket, ConditionFailed, Object, StoredObject
from sweeps.store.backends.s3_reader import RangedFile
from sweeps.text.redact import redact_uri
from sweeps.text.sanitize import visible

_URI = re.compile(r"s3://([A-Za-z0-9][A-Za-z0-9.\-_]*)(?:/(.*))?", re.DOTALL)
_IN_MEMORY = 1 << 26  # bytes; a longer text is buffered on disk instead of in memory


class S3Storage:
    """A storage under a prefix of a bucket."""

    is_shared = True

    def __init__(self, bucket: Bucket, prefix: str) -> None:
        """Access a prefix, which has no slash at its ends, without sending requests."""
        self._bucket, self._prefix = bucket, prefix

    @classmethod
    def at(cls, uri: str) -> S3Storage:
        """Return the storage at an ``s3://bucket/prefix`` URI.

        Raises:
            StoreError: the URI is invalid, or boto3 is not installed.
        """
        found = _URI.fullmatch(uri)
        shown = visible(redact_uri(uri))
        if found is None:
            raise StoreError(f"{shown}: must be s3://BUCKET/PREFIX, with a valid bucket name")
        prefix = (found[2] or "").rstrip("/")
        if prefix and any(part in ("", ".", "..") for part in prefix.split("/")):
            raise StoreError(f"{shown}: the prefix must not have empty, '.' or '..' parts")
        if not prefix.isprintable() or set(prefix) & set("?#"):
            raise StoreError(f"{shown}: the prefix must not contain '?', '#' or control characters")
        if importlib.util.find_spec("boto3") is None:
            raise StoreError(f"{shown}: a store on S3 needs boto3: pip install 'sgd-sweeps[s3]'")
        return cls(Bucket(found[1]), prefix)

    def locate(self, name: str = "") -> str:
        """Return a file's URI."""
        return self._bucket.locate(self._key(name))

    def path(self, name: str = "") -> Path:
        """Raise StoreError: objects have no path."""
        raise StoreError(f"{self.locate(name)}: this operation requires a store in a folder")

    def within(self, folder: str) -> S3Storage:
        """Return the storage of a subfolder."""
        return S3Storage(self._bucket, self._key(folder))

    def parent(self, levels: int) -> S3Storage:
        """Return the storage ``levels`` folders above."""
        return S3Storage(self._bucket, "/".join(self._prefix.split("/")[:-levels]))

    def check_writable(self) -> None:
        """Check that the bucket can be written, and that the server supports conditional writes.

        Raises:
            StoreUnavailable: the server is unreachable, rejects the request, has no such bucket, or ignores conditions.
        """
        probe = f".probe-{secrets.token_hex(8)}"
        with suppress(ConditionFailed):  # the response was lost
            self.put(probe, b"", new=True)
        try:
            for new, replaces in ((True, None), (False, '"0"')):
                try:
                    self.put(probe, b"again", new, replaces)
                except ConditionFailed:
                    continue
                raise StoreUnavailable(
                    f"{self.locate()}: the server ignores conditional writes (If-None-Match, If-Match), "
                    f"which are required to keep two processes from working on one sweep"
                )
        finally:
            self.remove(probe)

    def add(self, folder: str, files: dict[str, str], empty: str) -> None:
        """Write these text files in order; the last one marks the folder as complete.

        Raises:
            FileExistsError: the folder exists.
        """
        *first, last = ((f"{folder}/{name}", text.encode()) for name, text in files.items())
        for name, content in first:
            self.put(name, content)
        try:
            self.put(*last, new=True)
        except ConditionFailed as error:
            if self.read(last[0]) != last[1]:  # if equal, this call wrote it and the response was lost
                raise FileExistsError(errno.EEXIST, "exists already", self.locate(folder)) from error

    def discard(self, folder: str, first: str) -> None:
        """Delete all objects of a folder."""
        self.remove(f"{folder}/{first}")
        for key in self._bucket.keys(f"{self._key(folder)}/"):
            self._bucket.remove(key)

    def folders(self, folder: str) -> list[str]:
        """Return the names of the folders in a folder."""
        return self._bucket.names(f"{self._key(folder)}/")[0]

    def files(self, folder: str) -> list[str]:
        """Return the names of the files in a folder."""
        return list(self.stamps(folder))

    def stamps(self, folder: str) -> dict[str, str]:
        """Return each file's ETag."""
        return self._bucket.names(f"{self._key(folder)}/")[1]

    def exists(self, name: str) -> bool:
        """Return whether a file exists."""
        return self._bucket.exists(self._key(name))

    def read(self, name: str) -> bytes:
        """Return a file's content."""
        return self.get(name).content

    @contextmanager
    def reading(self, name: str) -> Iterator[pa.PythonFile]:
        """Yield a file that transfers only the requested parts."""
        yield pa.PythonFile(RangedFile(StoredObject(self._bucket, self._key(name))), mode="r")

    @contextmanager
    def local(self, name: str) -> Iterator[Path]:
        """Yield the path of a copy in a temporary folder."""
        with tempfile.TemporaryDirectory(prefix="sweeps-") as folder:
            path = Path(folder) / Path(name).name
            path.write_bytes(self.read(name))
            yield path

    @contextmanager
    def writing(self, name: str, keep: bool = False) -> Iterator[io.BytesIO]:
        """Yield a buffer that is uploaded if the block ends without an exception."""
        content = io.BytesIO()
        yield content
        # If the object exists, a worker that was considered dead, or this call, has written the same content.
        with suppress(ConditionFailed):
            self.put(name, content, new=keep)

    def write(self, name: str, content: bytes) -> None:
        """Write a small file atomically."""
        self.put(name, content)

    @contextmanager
    def writing_text(self, name: str) -> Iterator[TextIO]:
        """Yield a temporary text file that is uploaded if the block ends without an exception."""
        with tempfile.SpooledTemporaryFile(_IN_MEMORY) as spool:
            text = io.TextIOWrapper(spool, encoding="utf-8", newline="")
            try:
                yield text
            finally:
                text.detach()
            self.put(name, spool)

    def remove(self, name: str) -> None:
        """Remove a file if it exists."""
        self._bucket.remove(self._key(name))

    def remove_pieces(self) -> None:
        """Do nothing: an incomplete PUT leaves no object."""

    @contextmanager
    def lease(self, what: str) -> Iterator[Any]:
        """Hold the root with an object that is rewritten periodically; see :mod:`sweeps.store.backends.s3_lease`."""
        with s3_lease.held(self.lease_object, what) as lease:
            yield lease

    def holder(self) -> Holder | None:
        """Return the process that holds the root; None if there is none."""
        return s3_lease.holder(self.lease_object)

    @property
    def lease_object(self) -> StoredObject:
        """The object that contains the lease."""
        return StoredObject(self._bucket, self._key("lease"))

    def get(self, name: str, part: str | None = None, etag: str | None = None) -> Object:
        """Read a file; see :meth:`Bucket.get`."""
        return self._bucket.get(self._key(name), part, etag)

    def put(self, name: str, content: Any, new: bool = False, replaces: str | None = None) -> str:
        """Write a file; see :meth:`Bucket.put`."""
        return self._bucket.put(self._key(name), content, new, replaces)

    def _key(self, name: str) -> str:
        return "/".join(filter(None, (self._prefix, name)))
