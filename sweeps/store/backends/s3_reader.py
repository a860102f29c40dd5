"""RangedFile: an object on S3 as a file to read from, of which only the parts that are asked for travel."""

from __future__ import annotations

import io

from sweeps.errors import StoreUnavailable
from sweeps.store.backends.s3_client import ConditionFailed, StoredObject

_TAIL = 1 << 16  # bytes; a Parquet file is read from its end, where its footer is, and a small one is here at once


class RangedFile(io.RawIOBase):
    """Reads one content of an object: should another take its place meanwhile, reading ends with an error."""

    def __init__(self, stored: StoredObject) -> None:
        """Asks for the end of the file; raises as S3Storage.get() does."""
        super().__init__()
        self._stored, self._place = stored, 0
        tail = stored.get(f"bytes=-{_TAIL}")
        self._tail, self._etag, self._size = tail.content, tail.etag, tail.size

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def tell(self) -> int:
        """Where reading goes on."""
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to another place."""
        self._place = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._size}[whence]
        return self._place

    def read(self, size: int = -1) -> bytes:
        """So many bytes from here, or as many as there are."""
        start = self._place
        stop = self._size if size < 0 else min(start + size, self._size)
        self._place = max(start, stop)
        if stop <= start:
            return b""
        first = self._size - len(self._tail)  # that is here
        if start >= first:
            return self._tail[start - first : stop - first]
        try:
            return self._stored.get(f"bytes={start}-{stop - 1}", self._etag).content
        except ConditionFailed as error:
            raise StoreUnavailable(f"{self._stored.locate()}: written anew while it was read") from error
