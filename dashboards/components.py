"""Components: the parts that pages consist of. Text is always inserted as text: HTML in names is shown, not run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import pandas as pd
from dash import dcc, html

from sgdcore.verdict import MEANINGS, VERDICTS
from sweeps.report.colors import SYMBOLS
from sweeps.report.theme import PLOT_CONFIG
from sweeps.text.formatting import formatted, is_numeric, percent

CONFIG: Any = PLOT_CONFIG  # for every figure
Part = Any  # a Dash component, text, or a list of them
_WORDS = {
    "planned": "not started yet",
    "running": "a process is working on it",
    "interrupted": "shards are missing; continue with sweeps resume",
    "failed": "some trials could not be run; see the tracebacks in the sweep's folder",
    "computed": "all trials are stored; not all are in MLflow, or the report is missing",
    "logged": "all trials are in MLflow; the report is missing",
    "reported": "computed, logged and reported",
    "damaged": "one of its files cannot be read",
}
STATES = tuple(_WORDS)
_AGES = ((60, "min"), (24, "h"), (7, "d"))


def aria(**values: str) -> dict[str, Any]:
    """Return aria attributes, which describe a part to screen readers."""
    return {f"aria-{name}": value for name, value in values.items()}


def link(text: Part, href: str, **properties: Any) -> html.A:
    """Return a link within the dashboard: it changes the page without reloading it or scrolling to the top."""
    name = f"{properties.pop('className', '')} go".strip()
    return html.A(text, href=href, className=name, **properties)


def outside(text: str, href: str, **properties: Any) -> html.A:
    """Return a link that opens in a new tab."""
    return html.A(
        [text, html.Span("↗", className="out", **aria(hidden="true"))],
        href=href,
        target="_blank",
        rel="noopener noreferrer",
        **properties,
    )


def live(key: str, seconds: int, **properties: Any) -> list[Part]:
    """Return a container that a callback fills every ``seconds`` seconds, and the version of its content."""
    return [
        html.Div(id=key, **properties),
        dcc.Store(id=f"{key}-version"),
        dcc.Interval(id=f"{key}-tick", interval=seconds * 1000),
    ]


def pill(state: str) -> html.Span:
    """Return a sweep's state as a label."""
    return html.Span(state, className=f"pill pill-{state}", title=_WORDS.get(state, state))


def verdict(name: str) -> html.Span:
    """Return a verdict with its colour and symbol."""
    return html.Span([dot(name), name], title=MEANINGS.get(name, name))


def dot(name: str, alone: bool = False) -> html.Span:
    """Return a verdict's colour and symbol; ``alone`` adds its name for screen readers."""
    said: dict[str, Any] = {"data-symbol": SYMBOLS.get(name, "")}
    if alone:
        said |= {"role": "img", "title": name, **aria(label=name)}
    return html.Span(className=f"dot dot-{name}", **said)


def strip(counts: Mapping[str, int], kind: str = "strip") -> html.Div:
    """Return verdicts as shares of a bar."""
    label = ", ".join(f"{name} {counts[name]:,}" for name in VERDICTS if counts.get(name))
    spans = [html.Span(className=f"bg-{n}", style={"flex": counts[n]}) for n in VERDICTS if counts.get(n)]
    return html.Div(spans, className=kind, title=label, role="img", **aria(label=label or "no trials"))


def verdict_counts(counts: Mapping[str, int]) -> html.Ul:
    """Return verdicts as a list of counts."""
    total = sum(counts.values())
    return html.Ul(
        [
            html.Li(
                [
                    html.B(f"{counts.get(name, 0):,}"),
                    html.Small([verdict(name), f" · {percent(counts[name], total)}" if counts.get(name) else ""]),
                ],
                className="" if counts.get(name) else "none",
            )
            for name in VERDICTS
        ],
        className="counts",
    )


def progress(done: int, total: int, label: str, kind: str = "") -> html.Div:
    """Return a progress bar with its numbers."""
    share = min(1.0, done / total) if total else 0.0
    return html.Div(
        [
            html.Div(html.Span(style={"width": f"{100 * share:.2f}%"}), className=f"bar {kind}".strip()),
            html.Small(label),
        ],
        className="progress",
        role="progressbar",
        **aria(valuemin="0", valuemax=str(total), valuenow=str(done), label=label),
    )


def tags(values: Mapping[str, str]) -> list[html.Span]:
    """Return a sweep's tags."""
    return [html.Span([html.B(name), f" {value}"], className="tag") for name, value in sorted(values.items())]


def graph(key: str, figure: Any) -> dcc.Graph:
    """Return a figure with the report's settings."""
    height = (figure["layout"].get("height") if isinstance(figure, dict) else figure.layout.height) or 420
    return dcc.Graph(
        id=key, figure=figure, config=CONFIG, className="figure", responsive=True, style={"height": f"{height}px"}
    )


def table(frame: pd.DataFrame, first: Sequence[Part] | None = None, marked: int | None = None) -> html.Div:
    """Return a table as in the report; ``first`` replaces the first column, and row ``marked`` is highlighted."""
    shown = formatted(frame)
    kinds = ["number" if is_numeric(frame[name]) else "" for name in frame]
    head = [html.Th(str(name), scope="col", className=kind) for name, kind in zip(shown, kinds, strict=True)]
    rows = []
    for i, row in enumerate(shown.itertuples(index=False, name=None)):
        cells = [
            html.Td(verdict(text) if column == "verdict" else text, className=kind)
            for column, text, kind in zip(frame, row, kinds, strict=True)
        ]
        if first is not None:
            cells[0] = html.Td(first[i], className=kinds[0])
        rows.append(html.Tr(cells, className="marked" if i == marked else ""))
    return html.Div(html.Table([html.Thead(html.Tr(head)), html.Tbody(rows)]), className="scroll")


def facts(values: Mapping[str, Part]) -> html.Dl:
    """Return names and values as a description list."""
    return html.Dl([html.Div([html.Dt(name), html.Dd(value)]) for name, value in values.items()], className="facts")


def notice(text: str) -> html.P:
    """Return a notice, shown before everything else."""
    return html.P(text, className="notice", role="status")


def nothing(title: str, *text: Part) -> html.Div:
    """Return a placeholder for content that does not exist."""
    return html.Div([html.H2(title), *(html.P(part) for part in text)], className="nothing")


def moment(iso: str) -> str:
    """Return a time in the report's format."""
    try:
        return f"{datetime.fromisoformat(iso).astimezone(UTC):%Y-%m-%d %H:%M} UTC"
    except ValueError:
        return iso


def age(iso: str, now: datetime | None = None) -> str:
    """Return how long ago a time was, or its date if that was more than a week ago."""
    try:
        then = datetime.fromisoformat(iso).astimezone(UTC)
    except ValueError:
        return iso or "–"
    left = ((now or datetime.now(UTC)) - then).total_seconds() / 60
    if left < 1:
        return "just now"
    for size, unit in _AGES:
        if left < size:
            return f"{int(left)} {unit} ago"
        left /= size
    return f"{then:%Y-%m-%d}"
