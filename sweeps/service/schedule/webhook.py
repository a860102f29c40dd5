"""The webhook: report failures and regressions to an address from the environment, with retries."""

from __future__ import annotations

import json
import logging
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from http.client import HTTPException
from typing import Any

_PAUSES = (1.0, 4.0, 15.0)  # seconds before each retry
_SECONDS = 10
_log = logging.getLogger(__name__)


def tell(address: str, event: dict[str, Any], key: str, pause: Callable[[float], object] = time.sleep) -> str | None:
    """Post an event as JSON, in up to four attempts.

    Args:
        address: the URL.
        event: the event.
        key: sent as ``Idempotency-Key``; the same if the event is sent again after a crash.
        pause: waits for a number of seconds.

    Returns:
        The last problem, without the address, which can hold a secret; None on success.
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
            problem = f"the webhook responded with status {error.code}"
            error.close()
            if error.code < 500 and error.code not in (408, 425, 429):
                break  # a retry would get the same response
        except (OSError, HTTPException) as error:
            problem = f"the webhook cannot be reached: {type(getattr(error, 'reason', None) or error).__name__}"
        except ValueError:
            return "the webhook's address is not a valid URL"
    _log.warning("%s: %s", key, problem)
    return problem
