"""Strict YAML: 1e-3 is a number; duplicate keys, aliases and tags are rejected; errors have one line."""

from __future__ import annotations

import re
from collections.abc import Hashable
from typing import Any

import yaml

from sweeps.errors import ConfigError
from sweeps.text.sanitize import acts, visible

MAX_CHARACTERS = 4_000_000
_MAX_NODES = 100_000  # takes a few seconds to read
_MAX_DEPTH = 32
_MAX_SHOWN = 60  # characters of a key
_BREAKS = "\t\n\r"

# Scalars that are not text. YAML 1.1 would read 1e-3 as text, 1:30 as 90, 010 as 8, and 2026-01-01 as a date.
_RESOLVERS = (
    ("null", r"~|null|Null|NULL|", "~nN\0"),
    ("bool", r"yes|Yes|YES|no|No|NO|true|True|TRUE|false|False|FALSE|on|On|ON|off|Off|OFF", "yYnNtTfFoO"),
    ("int", r"[-+]?(0|[1-9][0-9_]*)", "-+0123456789"),
    ("float", r"[-+]?([0-9][0-9_]*\.?[0-9_]*|\.[0-9][0-9_]*)([eE][-+]?[0-9]+)?", "-+0123456789."),
    ("float", r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", "-+."),
)


class _Loader(yaml.SafeLoader):
    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = self._nodes = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        self._nodes += 1
        self._depth += 1
        if problem := self._refused(event):
            raise yaml.composer.ComposerError(None, None, problem, event.start_mark)
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def _refused(self, event: yaml.Event) -> str | None:
        if isinstance(event, yaml.AliasEvent):
            return "aliases (*name) are not allowed"
        if getattr(event, "tag", None) is not None:
            return "tags (!name) are not allowed"
        if self._depth > _MAX_DEPTH:
            return f"nested too deeply: at most {_MAX_DEPTH} levels are allowed"
        if self._nodes > _MAX_NODES:
            return f"too long: at most {_MAX_NODES:,} keys and values are allowed"
        if isinstance(event, yaml.ScalarEvent) and not event.value.isprintable():
            acting = next((c for c in event.value if acts(c) and c not in _BREAKS), None)
            return f"the character {acting!a} is not allowed" if acting else None
        return None

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            shown = visible(repr(key), _MAX_SHOWN)
            problem = (
                "is not text: put it in quotes"
                if not isinstance(key, str)
                else "is duplicated"
                if key in seen
                else None
            )
            if problem:
                raise yaml.constructor.ConstructorError(None, None, f"the key {shown} {problem}", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """A dumper that quotes text which this reader or a YAML 1.1 reader would not read as text."""


def _resolve(resolver: type[_Loader | _Dumper]) -> None:
    for kind, pattern, first in _RESOLVERS:
        characters = [c.strip("\0") for c in first]  # \0 stands for an empty scalar
        resolver.add_implicit_resolver(f"tag:yaml.org,2002:{kind}", re.compile(f"(?:{pattern})\\Z"), characters)


_Loader.yaml_implicit_resolvers = {}  # without YAML 1.1's
_resolve(_Loader)
_resolve(_Dumper)


def read(text: str, where: str) -> Any:
    """Return the document in ``text``, which was read from ``where``.

    Raises:
        ConfigError: it is not YAML, too long, or uses a rejected feature.
    """
    if len(text) > MAX_CHARACTERS:
        raise ConfigError(where, [f"too long: at most {MAX_CHARACTERS:,} characters are allowed"])
    try:
        return yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise ConfigError(where, [f"{place}{error.problem}"]) from error
    except yaml.YAMLError as error:
        raise ConfigError(where, [" ".join(str(error).split())]) from error
    except ValueError as error:  # a number that Python cannot hold
        raise ConfigError(where, [" ".join(str(error).split())]) from error


def write(document: Any) -> str:
    """Return plain values as YAML, with keys in their given order."""
    return yaml.dump(document, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)
