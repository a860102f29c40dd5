"""Sweep events, logged to the logger ``sweeps`` and formatted by sweeps.service.monitoring.event_log."""

from __future__ import annotations

import logging
from typing import Any

LOGGER = logging.getLogger("sweeps")
LOGGER.addHandler(logging.NullHandler())


def log_event(name: str, sweep_id: str, /, level: int = logging.INFO, **fields: Any) -> None:
    """Log a sweep event with its fields."""
    LOGGER.log(level, name, extra={"fields": {"sweep_id": sweep_id} | fields})
