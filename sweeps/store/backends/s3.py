"""S3 storage: a file is an object, there as soon as its one PUT is answered; works with every server that speaks S3.

What two processes must not both do is a conditional write (``If-None-Match``, ``If-Match``), which AWS has had since
November 2024; a server that does not heed the conditions is refused.
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
_IN_MEMORY = 1 << 26  # bytes of a text beyond which it waits on the disk


class S3Storage:
    """Objects under a prefix of a bucket."""

    is_shared = True

    def __init__(self, bucket: Bucket, prefix: str) -> None:
        """Nothing is asked for yet; ``prefix`` has no slash at its ends."""
        self._bucket, self._prefix = bucket, prefix

    @classmethod
    def at(cls, uri: str) -> S3Storage:
        """The storage at an ``s3://bucket/prefix`` URI.

        Raises:
            StoreError: it is no such URI, or boto3 is not installed.
        """
        found = _URI.fullmatch(uri)
        shown = visible(redact_uri(uri))
        if found is None:
            raise StoreError(f"{shown}: s3://BUCKET/PREFIX is needed, with a bucket's name")
        prefix = (found[2] or "").rstrip("/")
        if prefix and any(part in ("", ".", "..") for part in prefix.split("/")):
            raise StoreError(f"{shown}: the prefix may have no empty, '.' or '..' parts")
        if not prefix.isprintable() or set(prefix) & set("?#"):
            raise StoreError(f"{shown}: the prefix may hold no '?', '#' or control characters")
        if importlib.util.find_spec("boto3") is None:
            raise StoreError(f"{shown}: a store on S3 needs boto3: pip install 'sgd-sweeps[s3]'")
        return cls(Bucket(found[1]), prefix)

    def locate(self, name: str = "") -> str:
        """A file's URI."""
        return self._bucket.locate(self._key(name))

    def path(self, name: str = "") -> Path:
        """There is none.

        Raises:
            StoreError: always.
        """
        raise StoreError(f"{self.locate(name)}: this needs a store in a folder")

    def within(self, folder: str) -> S3Storage:
        """The storage of a folder in it."""
        return S3Storage(self._bucket, self._key(folder))

    def parent(self, levels: int) -> S3Storage:
        """The storage so many folders above."""
        return S3Storage(self._bucket, "/".join(self._prefix.split("/")[:-levels]))

    def check_writable(self) -> None:
        """Write, and see that the server heeds conditions.

        Raises:
            StoreUnavailable: it cannot be reached, refuses, has no such bucket, or does not heed them.
        """
        probe = f".probe-{secrets.token_hex(8)}"
        with suppress(ConditionFailed):  # the answer was lost
            self.put(probe, b"", new=True)
        try:
            for new, replaces in ((True, None), (False, '"0"')):
                try:
                    self.put(probe, b"again", new, replaces)
                except ConditionFailed:
                    continue
                raise StoreUnavailable(
                    f"{self.locate()}: the server does not heed conditional writes (If-None-Match, If-Match), "
                    f"without which two processes may work on one sweep"
                )
        finally:
            self.remove(probe)

    def add(self, folder: str, files: dict[str, str], empty: str) -> None:
        """These text files, the last one last: it says that the others are there."""
        *first, last = ((f"{folder}/{name}", text.encode()) for name, text in files.items())
        for name, content in first:
            self.put(name, content)
        try:
            self.put(*last, new=True)
        except ConditionFailed as error:
            if self.read(last[0]) != last[1]:  # or the answer was lost
                raise FileExistsError(errno.EEXIST, "there is one already", self.locate(folder)) from error

    def discard(self, folder: str, first: str) -> None:
        """Delete all objects of a folder."""
        self.remove(f"{folder}/{first}")
        for key in self._bucket.keys(f"{self._key(folder)}/"):
            self._bucket.remove(key)

    def folders(self, folder: str) -> list[str]:
        """Names of the folders in a folder."""
        return self._bucket.names(f"{self._key(folder)}/")[0]

    def files(self, folder: str) -> list[str]:
        """Names of the files in a folder."""
        return list(self.stamps(folder))

    def stamps(self, folder: str) -> dict[str, str]:
        """Of each file its ETag."""
        return self._bucket.names(f"{self._key(folder)}/")[1]

    def exists(self, name: str) -> bool:
        """Whether a file is there."""
        return self._bucket.exists(self._key(name))

    def read(self, name: str) -> bytes:
        """A file's content."""
        return self.get(name).content

    @contextmanager
    def reading(self, name: str) -> Iterator[pa.PythonFile]:
        """A file of which only the parts that are asked for travel."""
        yield pa.PythonFile(RangedFile(StoredObject(self._bucket, self._key(name))), mode="r")

    @contextmanager
    def local(self, name: str) -> Iterator[Path]:
        """A copy in a temporary folder."""
        with tempfile.TemporaryDirectory(prefix="sweeps-") as folder:
            path = Path(folder) / Path(name).name
            path.write_bytes(self.read(name))
            yield path

    @contextmanager
    def writing(self, name: str, keep: bool = False) -> Iterator[io.BytesIO]:
        """Memory, sent when the block ends well."""
        content = io.BytesIO()
        yield content
        with suppress(
            ConditionFailed
        ):  # it is there: the same, by a worker that was thought dead, or by this very call
            self.put(name, content, new=keep)

    def write(self, name: str, content: bytes) -> None:
        """As one object."""
        self.put(name, content)

    @contextmanager
    def writing_text(self, name: str) -> Iterator[TextIO]:
        """A temporary file, sent when the block ends well."""
        with tempfile.SpooledTemporaryFile(_IN_MEMORY) as spool:
            text = io.TextIOWrapper(spool, encoding="utf-8", newline="")
            try:
                yield text
            finally:
                text.detach()
            self.put(name, spool)

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""
        self._bucket.remove(self._key(name))

    def remove_pieces(self) -> None:
        """There are none: a PUT that is not answered leaves nothing."""

    @contextmanager
    def lease(self, what: str) -> Iterator[Any]:
        """An object that its holder keeps writing anew; see :mod:`sweeps.store.backends.s3_lease`."""
        with s3_lease.held(self.lease_object, what) as lease:
            yield lease

    def holder(self) -> Holder | None:
        """Who holds the root now."""
        return s3_lease.holder(self.lease_object)

    @property
    def lease_object(self) -> StoredObject:
        """The object that the lease is written to."""
        return StoredObject(self._bucket, self._key("lease"))

    def get(self, name: str, part: str | None = None, etag: str | None = None) -> Object:
        """As Bucket.get()."""
        return self._bucket.get(self._key(name), part, etag)

    def put(self, name: str, content: Any, new: bool = False, replaces: str | None = None) -> str:
        """As Bucket.put()."""
        return self._bucket.put(self._key(name), content, new, replaces)

    def _key(self, name: str) -> str:
        return "/".join(filter(None, (self._prefix, name)))
