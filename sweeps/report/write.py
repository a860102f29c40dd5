"""write(): the report's files, report.html, report.md, report.json and trials.csv, each written aside and renamed."""

from __future__ import annotations

import io
import json
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np
import pandas as pd

from sweeps.errors import StoreError
from sweeps.report import summary
from sweeps.report.expected import ExpectedOutcome, sentence, sentences
from sweeps.report.results import Results
from sweeps.report.text import escaped, formatted, is_numeric, markdown, percent

if TYPE_CHECKING:
    import plotly.graph_objects as go

FORMATS = ("html", "md", "csv", "json")
_FILES = {"html": "report.html", "md": "report.md", "csv": "trials.csv", "json": "report.json"}
MAX_CSV_TRIALS = 200_000  # about 60 MB
_MIN_VALUES_FOR_SHARES = 5  # of the widest axis, for the figure of verdicts along it
_PLOT_CONFIG = {
    "responsive": True,
    "displaylogo": False,
    "modeBarButtons": [["toImage", "zoom2d", "pan2d", "zoomIn2d", "zoomOut2d", "resetScale2d"]],
    "plotlyServerURL": "",  # nothing leaves the page: no upload to Plotly's cloud
}


def write(results: Results, expected: Sequence[ExpectedOutcome] | None = None) -> Path:
    """Write the report's four files into the sweep's report folder, and return the path of report.html.

    Of more than MAX_CSV_TRIALS trials there is no trials.csv: the shard files hold them, in a tenth of the room.

    Raises:
        StoreError: the folder cannot be written.
    """
    folder = results.files.report_folder
    try:
        folder.mkdir(exist_ok=True)
        if results.stored <= MAX_CSV_TRIALS:
            _write(folder / _FILES["csv"], lambda file: write_csv(results, file))
        else:
            (folder / _FILES["csv"]).unlink(missing_ok=True)
        for format in ("json", "md", "html"):  # html last: where it is, the report is whole
            text = render(results, format, expected)
            _write(folder / _FILES[format], lambda file, text=text: file.write(text))  # type: ignore[misc]
    except OSError as error:
        raise StoreError(f"{folder}: the report cannot be written: {error.strerror}") from error
    return folder / _FILES["html"]


def render(results: Results, format: str, expected: Sequence[ExpectedOutcome] | None = None) -> str:
    """The report in one of FORMATS, as text.

    Raises:
        ValueError: another format.
    """
    renderers = {"html": _html, "md": _markdown, "json": _json}
    if format == "csv":
        table = io.StringIO()
        write_csv(results, table)
        return table.getvalue()
    if format not in renderers:
        raise ValueError(f"format must be one of {', '.join(FORMATS)}, not {format!r}")
    return renderers[format](results, expected or ())


def write_csv(results: Results, file: TextIO) -> None:
    """All stored trials as CSV, one row a trial, shard by shard."""
    for i, frame in enumerate(results.frames()):
        frame.to_csv(file, index=False, lineterminator="\n", header=i == 0)
    if not results.shards:
        results.trials.to_csv(file, index=False, lineterminator="\n")


def _json(results: Results, expected: Sequence[ExpectedOutcome]) -> str:
    tables = [table for table in summary.tables(results) if table.key != "settings"]
    settings = summary.settings(results)
    document = {
        "sweep_id": results.files.sweep_id,
        "name": results.config.name,
        "description": results.config.description,
        "headline": summary.headline(results),
        "trials": {"planned": results.planned, "stored": results.stored},
        "swept": results.swept,
        "settings": dict(zip(settings["setting"], settings["value"], strict=True)),
        "tables": {table.key: table.frame.to_dict("records") for table in tables},
        "expected": [asdict(outcome) | {"sentence": sentence(outcome)} for outcome in expected],
        "metadata": results.metadata,
        "manifest": results.manifest,
    }
    return json.dumps(_clean(document), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _clean(value: Any) -> Any:
    """What strict JSON can hold: null for what is missing or not finite, Python's numbers for numpy's."""
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
    parts.append(f"**{summary.headline(results)}**")
    parts += [escaped(notice) for notice in _notices(results)]
    for table in summary.tables(results, expected):
        parts.append(f"## {table.title}")
        if table.note:
            parts.append(f"{table.note[0].upper()}{table.note[1:]}.")
        parts.append(markdown(table.frame))
        if table.key == "expected" and sentences(expected):
            parts.append("\n".join(f"- {escaped(line)}." for line in sentences(expected)))
    return (
        "\n\n".join([*parts, f"Sweep {results.files.sweep_id}, {_made_by(results)}. {_every_number(results)}"]) + "\n"
    )


def _html(results: Results, expected: Sequence[ExpectedOutcome]) -> str:
    import jinja2
    from markupsafe import Markup
    from plotly.offline import get_plotlyjs

    loader = jinja2.FileSystemLoader(Path(__file__).parent / "templates")
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.get_template("report.html.j2")
    figures = [{**part, "figure": Markup(_plot(part["id"], part["figure"]))} for part in _figures(results)]
    counts = summary.verdict_counts(results)
    return template.render(
        name=results.config.name,
        description=results.config.description,
        sweep_id=results.files.sweep_id,
        created=_created(results),
        headline=summary.headline(results),
        notices=_notices(results),
        verdicts=[
            {"name": name, "trials": trials, "share": percent(trials, results.stored)}
            for name, trials in zip(counts["verdict"], counts["trials"].tolist(), strict=True)
        ],
        figures=figures,
        tables=[_html_table(table) for table in summary.tables(results, expected) if table.key != "verdicts"],
        sentences=sentences(expected),
        made_by=_made_by(results),
        every_number=_every_number(results),
        plotly=Markup(get_plotlyjs()) if figures else "",
    )


def _figures(results: Results) -> list[dict[str, Any]]:
    from sweeps.report import figures

    if not results.stored:
        return []
    found = [
        {
            "id": "curves",
            "title": "Loss curves",
            "note": "The best, median and worst trial that settled, and one of each kind that did not.",
            "figure": figures.loss_curves(results),
        }
    ]
    if (heat_map := figures.heat_map(results)) is not None:
        note = "The least final loss in each cell, over all other parameters."
        found.append({"id": "map", "title": "Final loss", "note": note, "figure": heat_map})
    widest = next((name for name in results.axes if name != "seed"), None)
    if widest and len(results.values[widest]) >= _MIN_VALUES_FOR_SHARES:
        bars = figures.verdict_bars(results, widest)
        found.append({"id": "verdicts", "title": "Verdicts along the widest axis", "note": "", "figure": bars})
    return found


def _plot(name: str, figure: go.Figure) -> str:
    return str(
        figure.to_html(
            full_html=False,
            include_plotlyjs=False,
            div_id=f"figure-{name}",
            config=_PLOT_CONFIG,
            default_height=f"{figure.layout.height or figure.layout.template.layout.height}px",
        )
    )


def _html_table(table: summary.Table) -> dict[str, Any]:
    shown = formatted(table.frame)
    kinds = ["number" if is_numeric(table.frame[name]) else str(name) for name in table.frame]
    columns = [{"heading": name, "kind": kind} for name, kind in zip(shown, kinds, strict=True)]
    rows = list(shown.itertuples(index=False, name=None))
    return {"key": table.key, "title": table.title, "note": table.note, "columns": columns, "rows": rows}


def _notices(results: Results) -> list[str]:
    notices = []
    if 0 < results.stored < results.planned:
        notices.append(f"Partial: {results.stored:,} of {results.planned:,} trials are stored.")
    if failed := len(results.files.failures()):
        notices.append(f"{failed:,} shards could not be run; their tracebacks are in the sweep's failures folder.")
    if (finding := summary.finding(results)) is not None:
        notices.append(f"Finding: {finding}.")
    return notices


def _every_number(results: Results) -> str:
    if results.stored <= MAX_CSV_TRIALS:
        return f"Every number is in {_FILES['csv']} beside this page."
    return (
        f"Every number is in the Parquet files of the sweep's folder {results.files.shards_folder.name}, too many for "
        f"a {_FILES['csv']} ('sweeps report {results.files.sweep_id} --format csv' prints it)."
    )


def _created(results: Results) -> str:
    created = str(results.manifest.get("created", ""))
    try:
        return f"{datetime.fromisoformat(created).astimezone(UTC):%Y-%m-%d %H:%M} UTC"
    except ValueError:
        return created


def _made_by(results: Results) -> str:
    versions = results.manifest.get("versions", {})
    made = [f"{name} {version}" for name, version in versions.items()]
    kernel = f"kernel {results.metadata['kernel']}" if results.metadata["kernel"] else "no kernel yet"
    return ", ".join([kernel, *made])


def _write(path: Path, write: Callable[[TextIO], object]) -> None:
    aside = path.with_name(f".{path.name}.{os.getpid()}.new")
    with aside.open("w", encoding="utf-8", newline="") as file:
        write(file)
        file.flush()
        os.fsync(file.fileno())
    aside.rename(path)
