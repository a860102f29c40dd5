"""Overrides from the command line, KEY=VALUE, applied to a sweep file's document."""

from __future__ import annotations

import re
from typing import Any

from sweeps.config import strict_yaml
from sweeps.config.messages import key, shown
from sweeps.errors import ConfigError

_PLACE = re.compile(r"[0-9]{1,9}")  # a list index
_MAX_KEY = 1_000  # characters of a key that is overridden
_MAX_DEPTH = 32
_FORMS = ({"value"}, {"values"}, {"min", "max", "count", "scale"})  # of an axis; a new one replaces the others


def apply_override(document: dict[str, Any], override: str) -> None:
    """Set one key of a document in place, and create missing parent mappings.

    A key of an axis removes those that it excludes: ``values`` replaces ``value`` or a range.

    Raises:
        ConfigError: the override is not KEY=VALUE, its key is not in a mapping or list, or its value is not YAML.
    """
    given, equals, value = override.partition("=")
    if not equals or not given:
        raise ConfigError("--set", [f"{shown(override)}: must be KEY=VALUE, such as training.epochs=5"])
    segments = _segments(given) if len(given) <= _MAX_KEY else []
    if not 0 < len(segments) <= _MAX_DEPTH:
        raise ConfigError("--set", [f"{key(given)}: the key must have at most {_MAX_DEPTH} parts"])
    *parents, last = segments
    excluded = _excluded(parents, last)
    node: Any = document
    for depth, parent in enumerate(parents, start=1):
        if (place := _place(node, parent)) is not None:
            node = node[place]
        elif isinstance(node, dict):
            if excluded and depth == len(parents) and not isinstance(node.get(parent), dict):
                node[parent] = {}  # an axis written as a list
            node = node.setdefault(parent, {})
        else:
            raise ConfigError("--set", [f"{key(given)}: {shown(parent)} is not a key of a mapping or list"])
    if (place := _place(node, last)) is not None:
        node[place] = strict_yaml.read(value, "--set")
    elif isinstance(node, dict):
        node[last] = strict_yaml.read(value, "--set")
    else:
        raise ConfigError("--set", [f"{key(given)}: {shown(last)} is not a key of a mapping or list"])
    for name in excluded:
        node.pop(name, None)


def _excluded(parents: list[str], last: str) -> set[str]:
    """Return the keys of an axis that its key ``last`` excludes; none if the parents do not lead to an axis."""
    mapping = parents[:-1]
    is_axis = mapping == ["parameters"] or (len(mapping) == 2 and mapping[0] == "parameters" and mapping[1].isdigit())
    if not is_axis or _PLACE.fullmatch(parents[-1]) or not any(last in form for form in _FORMS):
        return set()
    return set().union(*(form for form in _FORMS if last not in form))


def _place(node: Any, segment: str) -> int | None:
    """Return the list index that a segment names; None if the node is not a list or has no such entry."""
    named = isinstance(node, list) and _PLACE.fullmatch(segment) and int(segment) < len(node)
    return int(segment) if named else None


def _segments(given: str) -> list[str]:
    """Split a dotted key; an axis such as init.weight.0 is one segment."""
    match = re.search(r"(?:^|\.)init\.\w+(\.\w+)*?(?=\.(values?|min|max|count|scale)(\.|$)|$)", given)
    if not match:
        return given.split(".")
    before, after = given[: match.start()], given[match.end() :]
    return [
        *(before.split(".") if before else []),
        match.group().lstrip("."),
        *(after[1:].split(".") if after else []),
    ]
