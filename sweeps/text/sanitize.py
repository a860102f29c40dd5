"""visible(): text of others (names, keys, paths) as a line may show it: nothing in it acts on a terminal."""

from __future__ import annotations

import unicodedata

_ACTING = ("Cc", "Cs", "Zl", "Zp")  # control characters, lone surrogates, line and paragraph separators
_TURNING = ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")  # the direction of what follows


def acts(character: str) -> bool:
    """Whether a character does something else than stand for itself: break a line, move a cursor, turn the text."""
    return unicodedata.category(character) in _ACTING or unicodedata.bidirectional(character) in _TURNING


def visible(text: str, most: int | None = None) -> str:
    """The text with every acting character written as Python escapes it; cut where it has more than ``most``."""
    if most is not None and len(text) > most:
        text = f"{text[: most - 3]}..."
    if text.isprintable():
        return text
    return "".join(c.encode("unicode_escape").decode() if acts(c) else c for c in text)
