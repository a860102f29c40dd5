"""The history page: best loss and stable share over time for sweeps of one name, each linked to its sweep."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from dash import Dash, Input, Output, State, html, no_update

from dashboards import components
from dashboards.context import Context
from dashboards.store_cache import Row
from dashboards.urls import query, sweep_path, with_query
from sweeps.report.figures.history import history_lines
from sweeps.results.history import FINISHED
from sweeps.text.formatting import heading

_SECONDS = 5
_MOST_ROWS = 200  # in the table


def layout() -> list[Any]:
    """Return the page; a callback fills it."""
    return [html.Div(html.H1("History"), className="head"), *components.live("history", _SECONDS)]


def register(app: Dash, context: Context) -> None:
    """Register the page's callbacks."""

    @app.callback(
        Output("history", "children"),
        Output("history-version", "data"),
        Input("history-tick", "n_intervals"),
        Input("url", "search"),
        State("history-version", "data"),
    )
    def _history(_: int | None, search: str | None, version: str | None) -> Any:
        rows = [row for row in context.catalogue.rows() if row.state in FINISHED]
        new = str(hash(repr((rows, search))))
        return (no_update, no_update) if new == version else (_shown(rows, query(search)), new)

    @app.callback(
        Output("url", "pathname"),
        Output("url", "search", allow_duplicate=True),
        Input("history-figure", "clickData"),
        prevent_initial_call=True,
    )
    def _open(clicked: Mapping[str, Any] | None) -> Any:
        if not clicked:
            return no_update, no_update
        return sweep_path(str(clicked["points"][0]["customdata"])), ""


def _shown(rows: Sequence[Row], asked: Mapping[str, str]) -> list[Any]:
    counts = Counter(row.name for row in rows)
    if not counts:
        return [
            components.nothing("No finished sweeps", "Sweeps of one name, such as those of a schedule, appear here.")
        ]
    repeated = [name for name, count in counts.items() if count > 1]
    name = asked.get("name") or next(iter(repeated or counts))
    frame = frame_of([row for row in rows if row.name == name])
    links = [
        components.link(
            [other, html.Span(f"{counts[other]:,}")],
            with_query("/history", {"name": other}),
            className=f"chip {'on' if other == name else ''}",
        )
        for other in dict.fromkeys([*repeated, *counts])
    ]
    figure = history_lines(frame)
    drawn: Any = components.nothing(name, "Only one finished sweep has this name; a history needs two.")
    if figure is not None:
        drawn = components.graph("history-figure", figure)
    shown = frame.drop(columns=["name", "metric"]).head(_MOST_ROWS)
    shown = shown.assign(created=[f"{moment:%Y-%m-%d %H:%M}" for moment in shown["created"]])
    shown = shown.rename(columns={"best": f"best {heading(frame['metric'].iloc[0])}" if len(frame) else "best"})
    ids = [components.link(html.Code(i), sweep_path(i)) for i in shown["id"]]
    return [
        html.Nav(links, className="chips", **components.aria(label="Names")),
        html.Section([html.H2(name), drawn], className="block"),
        html.Section(components.table(shown, ids) if len(shown) else None, className="block"),
    ]


def frame_of(rows: Sequence[Row]) -> pd.DataFrame:
    """Return the columns of :func:`sweeps.results.history.history` for these sweeps, newest first."""
    rows_of_frame = [
        {
            "id": row.sweep_id,
            "name": row.name,
            "created": pd.to_datetime(row.created, utc=True, errors="coerce"),
            "state": row.state,
            "trials": row.computed,
            "metric": row.stats.metric if row.stats else "final_loss",
            "best": row.stats.best if row.stats and row.stats.best is not None else math.nan,
            "stable_share": row.stats.stable / row.stats.trials if row.stats and row.stats.trials else math.nan,
        }
        for row in rows
    ]
    columns = ["id", "name", "created", "state", "trials", "metric", "best", "stable_share"]
    frame = pd.DataFrame(rows_of_frame, columns=columns).astype({"best": "float64", "stable_share": "float64"})
    return frame[frame["created"].notna()].sort_values("created", ascending=False)
