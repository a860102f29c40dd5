"""Health checks of a tracking URI: the writer that would be used, and the difference between clocks."""

from __future__ import annotations

import time
import urllib.error
import urllib.request
from contextlib import closing
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

from sweeps.errors import TrackingError
from sweeps.text.redact import redact_uri
from sweeps.tracking.mlflow.connection import is_server
from sweeps.tracking.mlflow.database.connect import opened
from sweeps.tracking.mlflow.database.postgres import PostgresDatabase
from sweeps.tracking.mlflow.tracker import MlflowTracker

_SECONDS = 5


def standing(tracker: MlflowTracker) -> tuple[str, str]:
    """Return which writer would log a sweep, and why.

    Raises:
        TrackingError: the server or database cannot be reached or rejects the user.
    """
    tracker.check()
    return tracker.choice.name, tracker.choice.reason


def skew(uri: str, database: str | None) -> float | None:
    """Return how many seconds the clock of a tracking server or PostgreSQL database is ahead; None for others.

    Raises:
        TrackingError: the server cannot be reached or does not report the time.
    """
    if is_server(uri):
        return _server_skew(uri)
    if not (database or uri).startswith("postgresql"):
        return None
    found = opened(database or uri)
    assert isinstance(found, PostgresDatabase)
    with closing(found.connect()) as connection:
        before = time.time()
        [[theirs]] = connection.query("SELECT extract(epoch FROM clock_timestamp())::float8")
        return float(theirs) - (before + time.time()) / 2


def _server_skew(uri: str) -> float:
    address = urlsplit(uri)
    request = f"{address.scheme}://{address.netloc.rpartition('@')[2]}{address.path.rstrip('/')}/health"
    before = time.time()
    try:
        with urllib.request.urlopen(request, timeout=_SECONDS) as answer:
            date = answer.headers["Date"]
    except urllib.error.HTTPError as error:
        date = error.headers["Date"]
    except OSError as error:
        raise TrackingError(f"{redact_uri(uri)}: the tracking server cannot be reached: {error}") from error
    if date is None:
        raise TrackingError(f"{redact_uri(uri)}: the tracking server does not report the time (no Date header)")
    # The header is truncated to whole seconds: add half a second on average.
    return parsedate_to_datetime(date).timestamp() + 0.5 - (before + time.time()) / 2
