"""A small S3 client with the calls and conditional writes that a store needs, and one-line errors.

Every process uses its own credentials, endpoint and region as found by boto3 (AWS_* variables, profiles, roles). They
are never stored, sent to workers or printed.
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
_CONDITION = ("PreconditionFailed", "412")  # the condition did not hold
_EMPTY = ("InvalidRange", "416")  # part of an empty object was requested
_BUSY = ("ConditionalRequestConflict", "409")  # another conditional write is under way
_TRIES, _PAUSE_SECONDS = 5, 0.1
_CONNECT_SECONDS = 10
_CONNECTIONS = 32


class ConditionFailed(OSError):
    """The condition of a conditional request does not hold: the object has changed."""


@dataclass(frozen=True)
class Object:
    """The content of an object or of a part of it."""

    content: bytes
    etag: str  # identifies the content; writing other content changes it
    size: int  # of the whole object
    age: float  # seconds since it was written, by the server's clock, to within a second


@dataclass(frozen=True)
class Bucket:
    """A bucket. Methods raise StoreUnavailable if the server is unreachable or rejects the request."""

    name: str

    def locate(self, key: str) -> str:
        """Return an object's URI."""
        return "/".join(filter(None, (f"s3://{self.name}", key)))

    def names(self, prefix: str) -> tuple[list[str], dict[str, str]]:
        """Return the names directly under a prefix: those of folders, and those of objects with their ETags."""
        folders: list[str] = []
        objects: dict[str, str] = {}
        with self._answers(prefix):
            pages = _client().get_paginator("list_objects_v2").paginate(Bucket=self.name, Prefix=prefix, Delimiter="/")
            for page in pages:
                folders += [entry["Prefix"][len(prefix) : -1] for entry in page.get("CommonPrefixes", [])]
                objects |= {entry["Key"][len(prefix) :]: entry["ETag"] for entry in page.get("Contents", [])}
        return folders, objects

    def keys(self, prefix: str) -> list[str]:
        """Return the keys of all objects under a prefix."""
        with self._answers(prefix):
            pages = _client().get_paginator("list_objects_v2").paginate(Bucket=self.name, Prefix=prefix)
            return [entry["Key"] for page in pages for entry in page.get("Contents", [])]

    def exists(self, key: str) -> bool:
        """Return whether an object exists."""
        try:
            with self._answers(key):
                _client().head_object(Bucket=self.name, Key=key)
        except FileNotFoundError:
            return False
        return True

    def remove(self, key: str) -> None:
        """Remove an object if it exists."""
        with self._answers(key):
            _client().delete_object(Bucket=self.name, Key=key)

    def get(self, key: str, part: str | None = None, etag: str | None = None) -> Object:
        """Read an object, or a part of it (``bytes=0-99``, or ``bytes=-100`` for its end).

        Raises:
            FileNotFoundError: the object does not exist.
            ConditionFailed: its ETag is no longer ``etag``.
        """
        request = {"Bucket": self.name, "Key": key, "Range": part, "IfMatch": etag}
        with self._answers(key):
            for attempt in range(_TRIES):
                answer = _client().get_object(**{name: value for name, value in request.items() if value is not None})
                try:
                    content = answer["Body"].read()
                    break
                except _broken_off():  # boto3 retries requests, but not reading the body of a response
                    if attempt == _TRIES - 1:
                        raise
        size = int(answer["ContentRange"].rpartition("/")[2]) if "ContentRange" in answer else len(content)
        now = parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"])  # HTTP requires it
        return Object(content, answer["ETag"], size, (now - answer["LastModified"]).total_seconds())

    def put(self, key: str, content: Any, new: bool = False, replaces: str | None = None) -> str:
        """Write an object in one request. Return its ETag.

        Args:
            key: the object's key.
            content: bytes, or a binary file.
            new: write only if the object does not exist.
            replaces: write only if the object has this ETag.

        Raises:
            ConditionFailed: the condition does not hold. This call itself can be the cause, if its response was lost.
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
                raise ConditionFailed(errno.ENOENT, "no such object", self.locate(key)) from error
            except BlockingIOError:
                if attempt == _TRIES - 1:
                    raise
                time.sleep(_PAUSE_SECONDS)
        raise AssertionError

    @contextmanager
    def _answers(self, key: str) -> Iterator[None]:
        """Convert boto3's errors into this module's errors."""
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            yield
        except ClientError as error:
            code = error.response["Error"]["Code"]
            if code in _MISSING:
                raise FileNotFoundError(errno.ENOENT, "no such object", self.locate(key)) from error
            if code in _CONDITION:
                raise ConditionFailed(errno.EEXIST, "it has changed", self.locate(key)) from error
            if code in _BUSY:
                raise BlockingIOError(errno.EAGAIN, "another process is writing it", self.locate(key)) from error
            if code in _EMPTY:
                raise OSError(errno.EIO, "it is empty", self.locate(key)) from error
            raise StoreUnavailable(f"{self.locate(key)}: {_reason(error, code)}") from error
        except (BotoCoreError, ValueError) as error:  # ValueError: an invalid endpoint
            raise StoreUnavailable(f"{self.locate(key)}: {_reason(error)}") from error


@dataclass(frozen=True)
class StoredObject:
    """An object of a bucket, which need not exist."""

    bucket: Bucket
    key: str

    def locate(self) -> str:
        """Return the object's URI."""
        return self.bucket.locate(self.key)

    def get(self, part: str | None = None, etag: str | None = None) -> Object:
        """Read the object; see :meth:`Bucket.get`."""
        return self.bucket.get(self.key, part, etag)

    def put(self, content: Any, new: bool = False, replaces: str | None = None) -> str:
        """Write the object; see :meth:`Bucket.put`."""
        return self.bucket.put(self.key, content, new, replaces)


def _reason(error: Exception, code: str = "") -> str:
    """Return the reason for an error in one line without secrets."""
    from botocore.exceptions import NoCredentialsError

    if isinstance(error, NoCredentialsError):
        return "no credentials found; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile"
    if code == "NoSuchBucket":
        return "no such bucket"
    message = error.response["Error"].get("Message", "") if code else str(error)  # type: ignore[attr-defined]
    reason = visible(redact_uri(" ".join(message.split())), 300).rstrip(".")
    return f"the server rejects the request: {code}: {reason}" if code else f"the store cannot be reached: {reason}"


def _broken_off() -> tuple[type[Exception], ...]:
    from botocore.exceptions import IncompleteReadError, ReadTimeoutError, ResponseStreamingError

    return IncompleteReadError, ReadTimeoutError, ResponseStreamingError


@cache
def _client() -> Any:
    """Return the process's client, which is thread-safe."""
    import boto3
    from botocore.config import Config

    session = boto3.Session()
    return session.client(
        "s3",
        region_name=session.region_name or os.environ.get("AWS_REGION"),
        config=Config(connect_timeout=_CONNECT_SECONDS, max_pool_connections=_CONNECTIONS),
    )
