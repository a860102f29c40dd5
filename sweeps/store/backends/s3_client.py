"""Bucket: the few calls of S3 that a store needs, with their conditions, and their errors in a line each.

Credentials, endpoint and region are those of the process that asks, as boto3 finds them (AWS_* variables, profiles,
roles): nothing of them is kept, sent to workers or told.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from functools import cache
from typing import Any

from sweeps.errors import StoreUnavailable
from sweeps.text.redact import redact_uri
from sweeps.text.sanitize import visible

_MISSING = ("NoSuchKey", "404")
_CONDITION = ("PreconditionFailed", "412")  # did not hold
_EMPTY = ("InvalidRange", "416")  # of a file without content no part can be had
_BUSY = ("ConditionalRequestConflict", "409")  # another conditional write is under way
_TRIES, _PAUSE_SECONDS = 5, 0.1
_CONNECT_SECONDS = 10
_CONNECTIONS = 32


class ConditionFailed(OSError):
    """Of a conditional write: the object is not, or no more, as the writer thought."""


@dataclass(frozen=True)
class Object:
    """An object, or a part of it."""

    content: bytes
    etag: str  # names this content; another writing of other content has another
    size: int  # of the whole object
    age: float  # seconds since it was written, by the server's own clock, to a second up or down


@dataclass(frozen=True)
class Bucket:
    """A bucket; what is asked of it raises StoreUnavailable where the server cannot be reached or refuses."""

    name: str

    def locate(self, key: str) -> str:
        """An object's URI."""
        return "/".join(filter(None, (f"s3://{self.name}", key)))

    def names(self, prefix: str) -> tuple[list[str], dict[str, str]]:
        """What follows the prefix up to the next slash: names of folders, and of objects with their ETags."""
        folders: list[str] = []
        objects: dict[str, str] = {}
        with self._answers(prefix):
            pages = _client().get_paginator("list_objects_v2").paginate(Bucket=self.name, Prefix=prefix, Delimiter="/")
            for page in pages:
                folders += [entry["Prefix"][len(prefix) : -1] for entry in page.get("CommonPrefixes", [])]
                objects |= {entry["Key"][len(prefix) :]: entry["ETag"] for entry in page.get("Contents", [])}
        return folders, objects

    def keys(self, prefix: str) -> list[str]:
        """All objects whose keys start so."""
        with self._answers(prefix):
            pages = _client().get_paginator("list_objects_v2").paginate(Bucket=self.name, Prefix=prefix)
            return [entry["Key"] for page in pages for entry in page.get("Contents", [])]

    def exists(self, key: str) -> bool:
        """Whether an object is there."""
        try:
            with self._answers(key):
                _client().head_object(Bucket=self.name, Key=key)
        except FileNotFoundError:
            return False
        return True

    def remove(self, key: str) -> None:
        """Remove an object, if it is there."""
        with self._answers(key):
            _client().delete_object(Bucket=self.name, Key=key)

    def get(self, key: str, part: str | None = None, etag: str | None = None) -> Object:
        """Read an object, or a part of it (``bytes=0-99``, or ``bytes=-100`` for its end).

        Raises:
            FileNotFoundError: it is not there.
            ConditionFailed: it is no more that of ``etag``.
        """
        request = {"Bucket": self.name, "Key": key, "Range": part, "IfMatch": etag}
        with self._answers(key):
            for attempt in range(_TRIES):
                answer = _client().get_object(**{name: value for name, value in request.items() if value is not None})
                try:
                    content = answer["Body"].read()
                    break
                except _broken_off():  # boto3 repeats the call until it is answered, but not the reading of the answer
                    if attempt == _TRIES - 1:
                        raise
        size = int(answer["ContentRange"].rpartition("/")[2]) if "ContentRange" in answer else len(content)
        now = parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"])  # HTTP asks for it
        return Object(content, answer["ETag"], size, (now - answer["LastModified"]).total_seconds())

    def put(self, key: str, content: Any, new: bool = False, replaces: str | None = None) -> str:
        """Write an object in one call; returns its ETag.

        Args:
            key: of the object.
            content: bytes, or a binary file.
            new: only where there is none.
            replaces: only in place of the content of this ETag.

        Raises:
            ConditionFailed: that is not so. It may be so because of this very call, if its answer was lost.
        """
        condition = {"IfNoneMatch": "*"} if new else {"IfMatch": replaces} if replaces else {}
        for attempt in range(_TRIES):
            if not isinstance(content, bytes):
                content.seek(0)
            try:
                with self._answers(key):
                    answer = _client().put_object(Bucket=self.name, Key=key, Body=content, **condition)
                return str(answer["ETag"])
            except FileNotFoundError as error:
                raise ConditionFailed(errno.ENOENT, "it is not there", self.locate(key)) from error
            except BlockingIOError:
                if attempt == _TRIES - 1:
                    raise
                time.sleep(_PAUSE_SECONDS)
        raise AssertionError

    @contextmanager
    def _answers(self, key: str) -> Iterator[None]:
        """What is answered instead of what was asked for, as this module's errors."""
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            yield
        except ClientError as error:
            code = error.response["Error"]["Code"]
            if code in _MISSING:
                raise FileNotFoundError(errno.ENOENT, "no such object", self.locate(key)) from error
            if code in _CONDITION:
                raise ConditionFailed(errno.EEXIST, "it is not as it was", self.locate(key)) from error
            if code in _BUSY:
                raise BlockingIOError(errno.EAGAIN, "somebody else is writing it", self.locate(key)) from error
            if code in _EMPTY:
                raise OSError(errno.EIO, "it is empty", self.locate(key)) from error
            raise StoreUnavailable(f"{self.locate(key)}: {_told(error, code)}") from error
        except (BotoCoreError, ValueError) as error:  # ValueError: an endpoint that is none
            raise StoreUnavailable(f"{self.locate(key)}: {_told(error)}") from error


@dataclass(frozen=True)
class StoredObject:
    """One object of a bucket, which need not exist."""

    bucket: Bucket
    key: str

    def locate(self) -> str:
        """Return its URI."""
        return self.bucket.locate(self.key)

    def get(self, part: str | None = None, etag: str | None = None) -> Object:
        """Read it, as Bucket.get()."""
        return self.bucket.get(self.key, part, etag)

    def put(self, content: Any, new: bool = False, replaces: str | None = None) -> str:
        """Write it, as Bucket.put()."""
        return self.bucket.put(self.key, content, new, replaces)


def _told(error: Exception, code: str = "") -> str:
    """What is wrong, in a line without secrets."""
    from botocore.exceptions import NoCredentialsError

    if isinstance(error, NoCredentialsError):
        return "there are no credentials: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile, are needed"
    if code == "NoSuchBucket":
        return "there is no such bucket"
    message = error.response["Error"].get("Message", "") if code else str(error)  # type: ignore[attr-defined]
    reason = visible(redact_uri(" ".join(message.split())), 300).rstrip(".")
    return f"the server refuses: {code}: {reason}" if code else f"the store cannot be reached: {reason}"


def _broken_off() -> tuple[type[Exception], ...]:
    from botocore.exceptions import IncompleteReadError, ReadTimeoutError, ResponseStreamingError

    return IncompleteReadError, ReadTimeoutError, ResponseStreamingError


@cache
def _client() -> Any:
    """The process' client; it may be used by all threads at once."""
    import boto3
    from botocore.config import Config

    session = boto3.Session()
    return session.client(
        "s3",
        region_name=session.region_name or os.environ.get("AWS_REGION"),
        config=Config(connect_timeout=_CONNECT_SECONDS, max_pool_connections=_CONNECTIONS),
    )
