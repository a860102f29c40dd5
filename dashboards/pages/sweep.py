"""The page of one sweep: result, stability map, and trials of a selected cell; live while the sweep runs."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from typing import Any

import pandas as pd
from dash import Dash, Input, Output, Patch, State, dcc, html, no_update

from dashboards import components, map_selection
from dashboards.context import Context
from dashboards.pages import trial
from dashboards.pages.sweeps import bars, pager
from dashboards.store_cache import Row, Seen
from dashboards.urls import query, report_path, sweep_path, with_query
from sweeps.errors import StoreError
from sweeps.report import figures
from sweeps.report import notices as report_notices
from sweeps.report.figures.stability_map import VIEWS
from sweeps.report.headline import lead_sentences
from sweeps.report.trial_tables import best_trials, verdict_counts
from sweeps.results.results import Results
from sweeps.results.stability_map import cell_trials, stability_panels
from sweeps.text.formatting import heading

_SECONDS = 2
_ROWS = 10  # trials of a cell shown at once


def layout(context: Context, sweep_id: str) -> list[Any]:
    """Return the page; callbacks fill it.

    Raises:
        StoreError: the sweep does not exist.
    """
    files = context.catalogue.files(sweep_id)
    return [
        dcc.Store(id="sweep-id", data=files.sweep_id),
        dcc.Store(id="sweep-version"),
        dcc.Interval(id="sweep-tick", interval=_SECONDS * 1000),
        html.Div(id="sweep-head"),
        html.Div(
            [
                html.Section(
                    [
                        html.Div([html.H2("Stability map"), html.Div(id="views")], className="head"),
                        dcc.Graph(
                            id="map", config=components.CONFIG, responsive=True, className="figure map", figure=_empty()
                        ),
                    ],
                    id="map-section",
                ),
                html.Section(id="side", className="side", **components.aria(live="polite")),
            ],
            id="explore",
            className="explore",
        ),
        html.Section(id="trial", className="trial"),
    ]


def register(app: Dash, context: Context) -> None:
    """Register the page's callbacks."""

    @app.callback(
        Output("sweep-head", "children"),
        Output("map", "figure"),
        Output("map", "style"),
        Output("map-section", "hidden"),
        Output("sweep-version", "data"),
        Input("sweep-tick", "n_intervals"),
        State("sweep-id", "data"),
        State("url", "search"),
        State("sweep-version", "data"),
    )
    def _refresh(_: int | None, sweep_id: str, search: str | None, version: list[str] | None) -> Any:
        row, seen, problem = _look(context, sweep_id)
        shown = [repr((row, problem)), seen.version if seen else ""]
        head_version, drawn = version or ["", ""]
        if shown == [head_version, drawn]:
            return (no_update,) * 5
        head = _head(context, row, seen, problem)
        if seen is None or seen.version == drawn:
            return head, no_update, no_update, seen is None, shown
        figure = _map(seen, query(search))
        return head, figure, {"height": f"{figure['layout']['height']}px"}, not figure["data"], shown

    @app.callback(
        Output("side", "children"),
        Output("trial", "children"),
        Output("views", "children"),
        Input("url", "search"),
        Input("sweep-version", "data"),
        State("sweep-id", "data"),
        prevent_initial_call=True,
    )
    def _choose(search: str | None, version: list[str] | None, sweep_id: str) -> Any:
        row, seen, _ = _look(context, sweep_id)
        if seen is None or not version or not seen.results.stored:
            return None, None, None
        asked = query(search)
        chosen = map_selection.named(stability_panels(seen.results), asked)
        views = _views(asked, row) if stability_panels(seen.results) else None
        return _side(context, row, seen, chosen, asked), trial.section(context, row, seen, chosen, asked), views

    @app.callback(
        Output("map", "figure", allow_duplicate=True),
        Input("url", "search"),
        State("sweep-id", "data"),
        State("sweep-version", "data"),
        prevent_initial_call=True,
    )
    def _mark(search: str | None, sweep_id: str, version: list[str] | None) -> Any:
        _, seen, _ = _look(context, sweep_id)
        if seen is None or not version or seen.version != version[1] or not stability_panels(seen.results):
            return no_update  # the next refresh draws it
        asked, patch = query(search), Patch()
        figure = seen.stability_map(VIEWS[0])
        chosen = map_selection.named(stability_panels(seen.results), asked)
        patch["layout"]["shapes"] = chosen.ring() if chosen else []
        for i, visible in enumerate(_visible(figure, _view(asked))):
            patch["data"][i]["visible"] = visible
        return patch

    @app.callback(
        Output("url", "search", allow_duplicate=True),
        Input("map", "clickData"),
        State("sweep-id", "data"),
        State("url", "search"),
        prevent_initial_call=True,
    )
    def _click(clicked: Mapping[str, Any] | None, sweep_id: str, search: str | None) -> Any:
        _, seen, _ = _look(context, sweep_id)
        if not clicked or seen is None or not stability_panels(seen.results):
            return no_update
        point = clicked["points"][0]
        axis = seen.stability_map(VIEWS[0])["data"][point["curveNumber"]].get("xaxis") or "x"
        place = int(axis.removeprefix("x") or 1) - 1
        cell = map_selection.clicked(stability_panels(seen.results), place, float(point["x"]), float(point["y"]))
        return with_query("", {"view": query(search).get("view"), **cell.values, "trial": str(cell.best)})

    trial.register(app, context)


def _look(context: Context, sweep_id: str) -> tuple[Row, Seen | None, str]:
    """Return the sweep's current row, its results as last read, and the reason if they cannot be read."""
    row = context.catalogue.row(context.catalogue.files(sweep_id))
    try:
        return row, context.catalogue.seen(row), ""
    except StoreError as error:
        return row, None, str(error)


def _head(context: Context, row: Row, seen: Seen | None, problem: str) -> list[Any]:
    results = seen.results if seen is not None else None
    links = [components.outside("Report", report_path(row.sweep_id), className="button")] if row.is_reported else []
    if (address := context.mlflow.run(row)) is not None:
        links.append(components.outside("MLflow run", address, className="button"))
    links.append(components.link("Compare with …", with_query("/", {"pick": row.sweep_id}), className="button"))
    running = row.state in ("running", "interrupted", "planned")
    return [
        html.Div(
            [
                components.link("Sweeps", "/"),
                html.Span("/"),
                html.Code(row.sweep_id),
                html.Span(components.moment(row.created)),
                components.pill(row.state),
                *components.tags(row.tags),
            ],
            className="over crumbs",
        ),
        html.Div([html.H1(row.name or row.sweep_id), html.Div(links, className="buttons")], className="head"),
        html.P(results.config.description, className="description") if results and results.config.description else None,
        bars(row) if running else None,
        *_lead(results, row, problem),
    ]


def _lead(results: Results | None, row: Row, problem: str) -> list[Any]:
    if problem:
        return [components.notice(f"Cannot read the results: {problem}")]
    if results is None:
        return [html.P(f"Reading {row.computed:,} trials …", className="lead reading", role="status")]
    counts = verdict_counts(results)
    verdicts = dict(zip(counts["verdict"], counts["trials"].tolist(), strict=True))
    notices = [text for text in report_notices.notices(results) if not text.startswith("Partial")]
    lines = [re.sub(r"(\de)-(\d)", "\\1\u2011\\2", line) for line in lead_sentences(results)]  # keep 1e-14 on one line
    return [
        *(html.P(line, className="lead") for line in lines),
        *map(components.notice, notices),
        *([components.strip(verdicts), components.verdict_counts(verdicts)] if results.stored else []),
    ]


def _empty() -> dict[str, Any]:
    return {"data": [], "layout": {"xaxis": {"visible": False}, "yaxis": {"visible": False}, "height": 360}}


def _view(asked: Mapping[str, str]) -> str:
    return asked["view"] if asked.get("view") in VIEWS else VIEWS[0]


def _visible(figure: Mapping[str, Any], view: str) -> list[bool]:
    """Return which traces a view shows, as set by the map's own buttons."""
    [menu] = figure["layout"]["updatemenus"]
    visible: list[bool] = menu["buttons"][VIEWS.index(view)]["args"][1]
    return visible


def _map(seen: Seen, asked: Mapping[str, str]) -> dict[str, Any]:
    """Return the report's map with the address's view and cell; without a map, the shares of verdicts."""
    figure = seen.stability_map(VIEWS[0])
    if figure is None:
        drawn = figures.verdict_shares(seen.results) if seen.results.stored else None
        shares: dict[str, Any] = drawn.to_plotly_json() if drawn is not None else _empty()
        return shares
    visible = _visible(figure, _view(asked))
    data = [{**trace, "visible": seen_} for trace, seen_ in zip(figure["data"], visible, strict=True)]
    layout = copy.copy(figure["layout"])
    above = layout["margin"]["t"] - 40 if len(stability_panels(seen.results)) == 1 else layout["margin"]["t"] - 24
    chosen = map_selection.named(stability_panels(seen.results), asked)
    layout |= {
        "updatemenus": [],  # replaced by links on the page
        "margin": {**layout["margin"], "t": above},
        "shapes": chosen.ring() if chosen else [],
        "uirevision": "map",  # keeps the zoom when trials are added
        "clickmode": "event",
    }
    return {"data": data, "layout": layout}


def _views(asked: Mapping[str, str], row: Row) -> html.Nav:
    path, now = sweep_path(row.sweep_id), _view(asked)
    return html.Nav(
        [
            components.link(
                view.capitalize(),
                with_query(path, {**asked, "view": view if view != VIEWS[0] else None}),
                className="on" if view == now else "",
                **(components.aria(current="true") if view == now else {}),
            )
            for view in VIEWS
        ],
        className="segments",
        **components.aria(label="Colour by"),
    )


def _side(
    context: Context, row: Row, seen: Seen, chosen: map_selection.Cell | None, asked: Mapping[str, str]
) -> list[Any]:
    """Return the selected cell's trials; if none is selected, the best of all."""
    results, path = seen.results, sweep_path(row.sweep_id)
    if chosen is None:
        best = best_trials(results, _ROWS)
        hint = "Click a cell of the map to see its trials." if stability_panels(results) else ""
        return [
            html.H2("Best trials"),
            html.P([f"By {heading(results.metric)}. ", hint], className="note"),
            _trials(results, best, asked, path) if len(best) else html.P("No trial has a loss yet.", className="note"),
        ]
    found = _cell_trials(seen, chosen)
    pages = max(1, -(-len(found) // _ROWS))
    page = min(max(1, int(asked["page"]) if asked.get("page", "").isdecimal() else 1), pages)
    part = found.iloc[(page - 1) * _ROWS : page * _ROWS]
    clear = with_query(path, {"view": asked.get("view")})
    count = f"{len(found):,} trial{'s' * (len(found) != 1)} in this cell, best first"
    return [
        html.Div([html.H2("Cell"), components.link("Show the best trials", clear)], className="head"),
        html.P(chosen.title, className="where"),
        html.P(count if len(found) else "No trial of this cell is stored yet.", className="note"),
        components.strip(chosen.counts, "strip small"),
        _trials(results, part, asked, path) if len(part) else None,
        pager(dict(asked), page, pages, path) if pages > 1 else None,
    ]


def _cell_trials(seen: Seen, chosen: map_selection.Cell) -> pd.DataFrame:
    """Return a cell's trials; the last cell's trials are cached."""
    key = ("cell", chosen.place, chosen.column, chosen.row)
    kept = seen.figures.get("cell")
    if kept is None or kept[0] != key:
        kept = seen.figures["cell"] = key, cell_trials(seen.results, chosen.panel, chosen.column, chosen.row)
    found: pd.DataFrame = kept[1]
    return found


def _trials(results: Results, rows: pd.DataFrame, asked: Mapping[str, str], path: str) -> html.Div:
    """Return trials as a narrow table; each row links to its trial."""
    frame = rows[["trial", results.metric, "steps_to_tolerance", *results.swept]]
    numbers = [int(number) for number in frame["trial"]]
    links = [
        [
            components.dot(str(verdict), True),
            components.link(str(n), with_query(path, {**asked, "trial": str(n)}), className="name"),
        ]
        for n, verdict in zip(numbers, rows["verdict"], strict=True)
    ]
    marked = numbers.index(int(asked["trial"])) if asked.get("trial", "") in map(str, numbers) else None
    return components.table(frame, links, marked)
