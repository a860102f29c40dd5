"""The webhook: a failure or regression told to an address that only the environment knows, with patience."""

from __future__ import annotations

import json
import logging
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from http.client import HTTPException
from typing import Any

_PAUSES = (1.0, 4.0, 15.0)  # seconds before another try
_SECONDS = 10
_log = logging.getLogger(__name__)


def tell(address: str, event: dict[str, Any], key: str, pause: Callable[[float], object] = time.sleep) -> str | None:
    """Post an event as JSON, up to four times.

    Args:
        address: where to.
        event: what.
        key: sent as ``Idempotency-Key``, the same if the same event is told again after a crash.
        pause: waits so many seconds.

    Returns:
        What went wrong the last time, without the address, which may hold a secret; None if it was taken.
    """
    body = json.dumps(event).encode()
    headers = {"Content-Type": "application/json", "Idempotency-Key": key, "User-Agent": "sgd-sweeps"}
    problem: str | None = None
    for wait in (0.0, *_PAUSES):
        if wait:
            pause(wait)
        try:
            request = urllib.request.Request(address, body, headers, method="POST")
            with urllib.request.urlopen(request, timeout=_SECONDS):
                return None
        except urllib.error.HTTPError as error:
            problem = f"the webhook answers {error.code}"
            error.close()
            if error.code < 500 and error.code not in (408, 425, 429):
                break  # it would say the same again
        except (OSError, HTTPException) as error:
            problem = f"the webhook cannot be reached: {type(getattr(error, 'reason', None) or error).__name__}"
        except ValueError:
            return "the webhook's address is not one"
    _log.warning("%s: %s", key, problem)
    return problem
