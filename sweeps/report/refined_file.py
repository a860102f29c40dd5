"""The sweep file that refines a sweep, with comments that say why each axis is as it is."""

from __future__ import annotations

import math
import re
import textwrap
from typing import Any

from sweeps.config import strict_yaml
from sweeps.config.axis import Axis
from sweeps.config.loader import loads
from sweeps.config.schema import LEARNING
from sweeps.report.headline import LOSSES
from sweeps.results.refinement import SLOWER, Refinement, around_the_best, at_the_edge
from sweeps.results.results import Results
from sweeps.text.formatting import cell, heading, number
from sweeps.text.sanitize import visible

_SUFFIX = re.compile(r"-refined(?:-(\d{1,6}))?$")
_MAX_NAME = 200
_WIDTH = 98  # of comments


def refined_file(results: Results, edge: bool = False) -> str:
    """Return the text of the next sweep file: zoomed to the best region, or to the edge of stability.

    Raises:
        InputError: there is no such region.
    """
    found = at_the_edge(results) if edge else around_the_best(results)
    document = strict_yaml.read(results.files.config_yaml(), results.files.config_location)
    document["name"] = next_name(results.config.name)
    dropped = document.pop("expected", None)
    notes = [_origin(results, edge), *_best(results, found)]
    if len(results.config.mappings()) > len(found.mappings):
        notes.append("Of the list of parameter mappings, this is the one with the recommended setting.")
    if dropped:
        notes.append("Its expected trials are left out: their settings need not be in this sweep.")
    if results.config.method in LEARNING:
        document["warm_start"] = results.files.sweep_id
        notes.append(f"warm_start: the rounds learn from the settings of sweep {results.files.sweep_id}, too.")
    parts = [_comment(note) for note in notes]
    for key, value in document.items():
        parts.append(_parameters(found) if key == "parameters" else strict_yaml.write({key: value}))
    text = "".join(parts)
    loads(text, "the refined sweep file")
    return text


def next_name(name: str) -> str:
    """Return the name of the sweep that refines one: NAME-refined, then NAME-refined-2."""
    match = _SUFFIX.search(name)
    stem = name[: match.start()] if match else name
    suffix = f"-refined-{int(match.group(1) or 1) + 1}" if match else "-refined"
    return stem[: _MAX_NAME - len(suffix)] + suffix


def _origin(results: Results, edge: bool) -> str:
    what = "the edge of stability" if edge else "the best region"
    stored, planned = results.stored, results.planned
    part = "" if stored == planned else f", of which {stored:,} of {planned:,} trials are stored"
    return f"Written by 'sweeps refine': {what} of {results.config.name} (sweep {results.files.sweep_id}){part}."


def _best(results: Results, found: Refinement) -> list[str]:
    use = found.recommendation
    if use is None:
        return []
    setting = ", ".join(f"{heading(name)} {cell(value, name)}" for name, value in use.setting.items())
    best = f"Its recommended setting is {setting}: {LOSSES[results.metric]} {number(use.value)}."
    if use.equals == 1:
        return [best]
    slower = "" if math.isnan(use.speed) else f" and reach tolerance in at most {SLOWER:g} times its training"
    others = f"{use.equals - 1:,} {'others' if use.equals > 2 else 'other'} cannot be told from it"
    return [f"{best} {others}; the axes hold those that cannot{slower}."]


def _parameters(found: Refinement) -> str:
    """Return the search space as YAML, with a comment above each axis that has changed."""
    if len(found.mappings) == 1:
        return "parameters:\n" + _mapping(found.mappings[0], found.reasons[0], "  ")
    parts = []
    for mapping, reasons in zip(found.mappings, found.reasons, strict=True):
        text = _mapping(mapping, reasons, "  ")
        comments = re.match(r"(?:  #.*\n)*", text)
        head = comments.group() if comments else ""
        parts.append(head + "- " + text[len(head) + 2 :])
    return "parameters:\n" + "".join(parts)


def _mapping(mapping: dict[str, Axis], reasons: dict[str, str], indent: str) -> str:
    lines = []
    for name, axis in mapping.items():
        spec: dict[str, Any] = axis.model_dump(mode="json", exclude_unset=True)
        if name in reasons:
            lines.append(_comment(f"{name}: {reasons[name]}", indent))
        lines += [indent + line + "\n" for line in strict_yaml.write({name: spec}).splitlines()]
    return "".join(lines) or f"{indent}{{}}\n"


def _comment(text: str, indent: str = "") -> str:
    lines = textwrap.wrap(visible(text), _WIDTH - len(indent), break_on_hyphens=False)
    return "".join(f"{indent}# {line}\n" for line in lines)
