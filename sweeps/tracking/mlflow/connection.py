"""Check early that a tracking server or database can be reached, with one-line errors."""

from __future__ import annotations

import http.client
import logging
import os
import re
import urllib.error
import urllib.request
from urllib.parse import urlsplit

from sweeps.errors import TrackingError
from sweeps.text.redact import first_line, redact_uri

_PROBE_SECONDS = 5


def probe(uri: str) -> None:
    """Connect to a server or database with a short timeout; MLflow's client would wait much longer.

    Raises:
        TrackingError: the server or database cannot be reached.
    """
    if is_server(uri):
        _probe_server(uri)
    elif re.fullmatch(r"sqlite(\+\w+)?:/*(:memory:)?", uri):
        raise TrackingError(f"{redact_uri(uri)}: a database in memory is lost when the sweep ends; use a file")
    elif re.match(r"(sqlite|postgresql|mysql|mssql)(\+\w+)?://", uri):
        _probe_database(uri)


def _probe_server(uri: str) -> None:
    try:
        address = urlsplit(uri)
        host = address.netloc.rpartition("@")[2]  # urllib does not support user names in addresses
        request = urllib.request.Request(f"{address.scheme}://{host}{address.path.rstrip('/')}/health")
        with urllib.request.urlopen(request, timeout=_PROBE_SECONDS):
            return
    except urllib.error.HTTPError:
        return  # a server answers; MLflow's client reports what is wrong
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or str(error) or type(error).__name__
        raise TrackingError(f"{redact_uri(uri)}: the tracking server cannot be reached: {reason}") from error


def _probe_database(uri: str) -> None:
    import sqlalchemy

    options = {"connect_timeout": _PROBE_SECONDS} if uri.startswith("postgresql") else {}
    try:
        engine = sqlalchemy.create_engine(uri, connect_args=options)
        with engine.connect():
            pass
        engine.dispose()
    except (sqlalchemy.exc.SQLAlchemyError, ImportError, ValueError) as error:
        how = "; pip install 'sgd-sweeps[postgres]'" if options and isinstance(error, ImportError) else ""
        raise TrackingError(f"{redact_uri(uri)}: the database cannot be opened: {first_line(error)}{how}") from error


def is_server(uri: str) -> bool:
    """Return whether a URI is that of an HTTP tracking server."""
    return re.match(r"https?://", uri) is not None


def quiet() -> None:
    """Disable MLflow's telemetry, logs and progress bars; environment variables set by the user take precedence."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("DO_NOT_TRACK", "true")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")  # drawn where tqdm is installed
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # errors are also raised, and reported in one line
