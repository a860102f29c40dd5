"""A readable file over an object on S3 that transfers only the requested parts."""

from __future__ import annotations

import io

from sweeps.errors import StoreUnavailable
from sweeps.store.backends.s3_client import ConditionFailed, StoredObject

_TAIL = 1 << 16  # bytes; the end of a Parquet file is read first, since it has the footer, or all of a small file


class RangedFile(io.RawIOBase):
    """A read-only file over one version of an object; reading fails if the object is replaced in the meantime."""

    def __init__(self, stored: StoredObject) -> None:
        """Read the end of the file. Raises the same errors as S3Storage.get()."""
        super().__init__()
        self._stored, self._place = stored, 0
        tail = stored.get(f"bytes=-{_TAIL}")
        self._tail, self._etag, self._size = tail.content, tail.etag, tail.size

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the position."""
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Change the position, and return it."""
        self._place = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._size}[whence]
        return self._place

    def read(self, size: int = -1) -> bytes:
        """Read up to ``size`` bytes from the position, or all if it is negative."""
        start = self._place
        stop = self._size if size < 0 else min(start + size, self._size)
        self._place = max(start, stop)
        if stop <= start:
            return b""
        first = self._size - len(self._tail)  # the position at which the tail starts
        if start >= first:
            return self._tail[start - first : stop - first]
        try:
            return self._stored.get(f"bytes={start}-{stop - 1}", self._etag).content
        except ConditionFailed as error:
            raise StoreUnavailable(f"{self._stored.locate()}: replaced while it was read; try again") from error
