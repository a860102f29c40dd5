"""The event log: sweep events on standard error as text or JSON lines, disabled by default.

It is for log collectors; messages for people are printed by sweeps.cli.terminal. Secrets are removed from every
record: passwords in URIs, and the values of environment variables whose names mark them as secrets.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from datetime import UTC, datetime
from typing import Any, Literal

from sweeps.events import LOGGER
from sweeps.text.redact import redact

LogFormat = Literal["text", "json"]


def set_up(form: LogFormat, level: str) -> None:
    """Write records of ``level`` (``debug`` ... ``error``) and above to standard error from now on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json() if form == "json" else _Text())
    handler.addFilter(_without_secrets)
    for earlier in [each for each in LOGGER.handlers if isinstance(each, logging.StreamHandler)]:
        LOGGER.removeHandler(earlier)
    LOGGER.addHandler(handler)
    LOGGER.propagate = False  # Ray and MLflow configure the root logger, which would log records twice
    LOGGER.setLevel(level.upper())


def is_set_up() -> bool:
    """Return whether records are written anywhere."""
    return any(isinstance(each, logging.StreamHandler) for each in LOGGER.handlers)


def _without_secrets(record: logging.LogRecord) -> bool:
    record.msg, record.args = redact(record.getMessage()), None
    fields: dict[str, Any] = getattr(record, "fields", {})
    record.fields = {name: redact(value) if isinstance(value, str) else value for name, value in fields.items()}
    if record.exc_info:
        record.exc_text = redact(logging.Formatter().formatException(record.exc_info))
        record.exc_info = None
    return True


class _Json(logging.Formatter):
    """A formatter that writes one JSON object per line."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as JSON."""
        document = {"time": _time(record), "level": record.levelname.lower(), "event": record.msg}
        document |= record.fields  # type: ignore[attr-defined]
        if record.exc_text:
            document["traceback"] = record.exc_text
        return json.dumps(document, default=str)


class _Text(logging.Formatter):
    """A formatter that writes the event, followed by its fields as name=value."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as a line, followed by its traceback if it has one."""
        fields: dict[str, Any] = record.fields  # type: ignore[attr-defined]
        pairs = " ".join(f"{name}={_word(value)}" for name, value in fields.items())
        line = f"{_time(record)} {record.levelname} {record.msg} {pairs}".rstrip()
        return f"{line}\n{record.exc_text}" if record.exc_text else line


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")


def _word(value: Any) -> str:
    text = str(value)
    return text if re.fullmatch(r"[\w./:+-]+", text) else json.dumps(text)
