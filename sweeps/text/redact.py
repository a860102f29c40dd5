"""Redaction of passwords, tokens and keys in everything that is printed, logged or stored."""

from __future__ import annotations

import os
import re

REDACTED = "***"  # stands for a secret
_SECRET_VARIABLE = re.compile(r"(PASSWORD|TOKEN|SECRET|SECRET_KEY|ACCESS_KEY|API_KEY)$")
_SHORTEST_SECRET = 4  # characters; shorter values would hide ordinary words


def redact_uri(text: str) -> str:
    """Return the text without the credentials in its URIs: passwords, tokens as user names, secret query parameters."""
    # A password can contain anything but spaces; it ends at the last @ before a space.
    text = re.sub(r"(://[^:/@\s]*):\S*@", rf"\1:{REDACTED}@", text)
    text = re.sub(r"((?:https?|s3)://)[^:/@\s]+@", rf"\1{REDACTED}@", text)
    return re.sub(r"([?&][^=&\s]*(?:password|token|secret|key)[^=&\s]*=)[^&\s]*", rf"\1{REDACTED}", text, flags=re.I)


def redact(text: str) -> str:
    """Return the text without secrets: those of redact_uri(), assignments, bearer tokens, and the values of
    environment variables whose names mark them as secrets."""
    text = redact_uri(text)
    text = re.sub(r"(?i)((?:password|token|secret)\w*[=:]\s*|bearer\s+)[^&\s\"',;]+", rf"\1{REDACTED}", text)
    for name, value in os.environ.items():
        if _SECRET_VARIABLE.search(name) and len(value) >= _SHORTEST_SECRET:
            text = text.replace(value, REDACTED)
    return text


def first_line(error: BaseException) -> str:
    """Return the first non-empty line of an error's message, without credentials; its type's name if it has none."""
    lines = [line.strip() for line in redact_uri(str(error)).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def one_line(error: BaseException, most: int = 300) -> str:
    """Return an error's whole message as one line of at most ``most`` characters, without credentials."""
    return redact_uri(" ".join(str(error).split()))[:most] or type(error).__name__
