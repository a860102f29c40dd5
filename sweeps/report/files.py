"""Write the report's files, report.html, report.md, report.json and trials.csv, each atomically."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, TextIO

import numpy as np
import pandas as pd

from sweeps.report.expected_results import expected_sentence, expected_sentences
from sweeps.report.headline import headline, lead_sentences
from sweeps.report.html import html
from sweeps.report.notices import FILES, every_number, has_csv, made_by, notices
from sweeps.report.tables import report_tables
from sweeps.results.expected_outcome import ExpectedOutcome
from sweeps.results.provenance import settings
from sweeps.results.results import Results
from sweeps.text.formatting import escaped, markdown

FORMATS = ("html", "md", "csv", "json")


def write_report(results: Results, expected: Sequence[ExpectedOutcome] | None = None) -> str:
    """Write the report's files into the sweep's report folder, and return the path or URI of report.html.

    For more than notices.MAX_CSV_TRIALS trials there is no trials.csv: the shard files hold them in a tenth of the
    space.

    Raises:
        StoreError: the folder cannot be written.
    """
    files = results.files
    if has_csv(results):
        with files.report.writing(FILES["csv"]) as file:
            write_csv(results, file)
    else:
        files.report.remove(FILES["csv"])
    for format in ("json", "md", "html"):  # html last: if it exists, the report is complete
        text = render_report(results, format, expected)
        with files.report.writing(FILES[format]) as file:
            file.write(text)
    return files.report.location(FILES["html"])


def render_report(results: Results, format: str, expected: Sequence[ExpectedOutcome] | None = None) -> str:
    """Return the report in one of FORMATS, as text.

    Raises:
        ValueError: ``format`` is not one of FORMATS.
    """
    renderers = {"html": html, "md": _markdown, "json": _json}
    if format == "csv":
        table = io.StringIO()
        write_csv(results, table)
        return table.getvalue()
    if format not in renderers:
        raise ValueError(f"format must be one of {', '.join(FORMATS)}, not {format!r}")
    return renderers[format](results, expected or ())


def write_csv(results: Results, file: TextIO) -> None:
    """Write all stored trials as CSV, one row per trial, shard by shard."""
    for i, frame in enumerate(results.frames()):
        frame.to_csv(file, index=False, lineterminator="\n", header=i == 0)
    if not results.shards:
        results.trials.to_csv(file, index=False, lineterminator="\n")


def _json(results: Results, expected: Sequence[ExpectedOutcome]) -> str:
    shown = [table for table in report_tables(results) if table.key != "settings"]
    shared = settings(results)
    document = {
        "sweep_id": results.files.sweep_id,
        "name": results.config.name,
        "description": results.config.description,
        "headline": headline(results),
        "trials": {"planned": results.planned, "stored": results.stored},
        "swept": results.swept,
        "settings": dict(zip(shared["setting"], shared["value"], strict=True)),
        "tables": {table.key: table.frame.to_dict("records") for table in shown},
        "expected": [asdict(outcome) | {"sentence": expected_sentence(outcome)} for outcome in expected],
        "metadata": results.metadata,
        "manifest": results.manifest,
    }
    return json.dumps(_clean(document), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _clean(value: Any) -> Any:
    """Convert a value to strict JSON types: missing and non-finite values to None, numpy scalars to Python's."""
    if isinstance(value, dict):
        return {str(key): _clean(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_clean(item) for item in value]
    if isinstance(value, np.generic):
        return _clean(value.item())
    if value is pd.NA or (isinstance(value, float) and not math.isfinite(value)):
        return None
    return value


def _markdown(results: Results, expected: Sequence[ExpectedOutcome]) -> str:
    parts = [f"# {escaped(results.config.name)}"]
    if results.config.description:
        parts.append(escaped(results.config.description))
    parts.append(f"**{' '.join(lead_sentences(results))}**")
    parts += [escaped(notice) for notice in notices(results)]
    for table in report_tables(results, expected):
        parts.append(f"## {table.title}")
        if table.note:
            parts.append(f"{table.note[0].upper()}{table.note[1:]}.")
        parts.append(markdown(table.frame))
        if table.key == "expected" and expected_sentences(expected):
            parts.append("\n".join(f"- {escaped(line)}." for line in expected_sentences(expected)))
    return "\n\n".join([*parts, f"Sweep {results.files.sweep_id}, {made_by(results)}. {every_number(results)}"]) + "\n"
