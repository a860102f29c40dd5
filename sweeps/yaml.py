"""Reading YAML strictly: 1e-3 is a number, a key stands once, no aliases, no tags, one line an error."""

from __future__ import annotations

import re
from collections.abc import Hashable
from typing import Any

import yaml

from sweeps.errors import ConfigError


class _Loader(yaml.SafeLoader):
    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(None, None, "aliases (*name) are not allowed", mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} is not text", key_node.start_mark)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} stands twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


# YAML 1.1 takes 1e-3 for text, because it has no point; YAML 1.2 and everybody else take it for a number.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d[\d_]*\.?[\d_]*|\.\d[\d_]*)([eE][-+]?\d+)?$|^[-+]?\.(inf|Inf|INF)$|^\.(nan|NaN|NAN)$"),
    list("-+0123456789."),
)


def read(text: str, where: str) -> Any:
    """The document in ``text``.

    Raises:
        ConfigError: it is not YAML, or uses what is refused here.
    """
    try:
        return yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise ConfigError(where, [f"{place}{error.problem}"]) from error
    except yaml.YAMLError as error:
        raise ConfigError(where, [" ".join(str(error).split())]) from error
    except ValueError as error:  # a date or number that Python cannot hold
        raise ConfigError(where, [" ".join(str(error).split())]) from error
    except RecursionError as error:
        raise ConfigError(where, ["nested too deeply"]) from error


def write(document: Any) -> str:
    """YAML of plain values, keys in their given order."""
    return yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=100)
