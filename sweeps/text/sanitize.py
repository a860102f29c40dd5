"""Sanitising of untrusted text (names, keys, paths), so that nothing in it can control a terminal."""

from __future__ import annotations

import unicodedata

_ACTING = ("Cc", "Cs", "Zl", "Zp")  # control characters, lone surrogates, line and paragraph separators
_TURNING = ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")  # bidirectional controls


def acts(character: str) -> bool:
    """Return whether a character is a control: it breaks a line, moves the cursor or changes the text direction."""
    return unicodedata.category(character) in _ACTING or unicodedata.bidirectional(character) in _TURNING


def visible(text: str, most: int | None = None) -> str:
    """Return the text with control characters escaped as in Python, cut to at most ``most`` characters."""
    if most is not None and len(text) > most:
        text = f"{text[: most - 3]}..."
    if text.isprintable():
        return text
    return "".join(c.encode("unicode_escape").decode() if acts(c) else c for c in text)
