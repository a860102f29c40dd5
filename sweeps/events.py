"""Events of a sweep's life, logged to the logger ``sweeps``; sweeps.service.monitoring.event_log formats them."""

from __future__ import annotations

import logging
from typing import Any

LOGGER = logging.getLogger("sweeps")
LOGGER.addHandler(logging.NullHandler())


def log_event(name: str, sweep_id: str, /, level: int = logging.INFO, **fields: Any) -> None:
    """Log an event of a sweep, with its fields."""
    LOGGER.log(level, name, extra={"fields": {"sweep_id": sweep_id} | fields})
