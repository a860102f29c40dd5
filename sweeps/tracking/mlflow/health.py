"""Health: how a tracking URI stands before any sweep uses it, and how far its clock is from this machine's."""

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
    """Which writer would log a sweep, and why.

    Raises:
        TrackingError: the server or database cannot be reached, or refuses.
    """
    tracker.check()
    return tracker.choice.name, tracker.choice.reason


def skew(uri: str, database: str | None) -> float | None:
    """Seconds by which the clock of a tracking server, or of a PostgreSQL database, is ahead; None where there is none.

    Raises:
        TrackingError: it does not say what time it is.
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
            told = answer.headers["Date"]
    except urllib.error.HTTPError as error:
        told = error.headers["Date"]
    except OSError as error:
        raise TrackingError(f"{redact_uri(uri)}: the tracking server cannot be reached: {error}") from error
    if told is None:
        raise TrackingError(f"{redact_uri(uri)}: the tracking server does not say what time it is")
    # Whole seconds, cut: half a second later on average.
    return parsedate_to_datetime(told).timestamp() + 0.5 - (before + time.time()) / 2
