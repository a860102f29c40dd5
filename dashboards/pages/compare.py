"""The page that compares sweeps with the first of them, with the tables and figures of ``sweeps compare``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dash import Dash, Input, Output, State, html, no_update

from dashboards import components
from dashboards.context import Context
from dashboards.store_cache import Compared
from dashboards.urls import query, sweep_path, with_query
from sgdcore.verdict import VERDICTS
from sweeps.errors import SweepsError
from sweeps.report.comparison_tables import comparison_findings, comparison_sentences, comparison_tables
from sweeps.report.html import Section
from sweeps.report.tables import Table
from sweeps.results.comparison import MAX_SWEEPS

_SECONDS = 2


def layout() -> list[Any]:
    """Return the page; a callback fills it."""
    return [html.Div(html.H1("Compare"), className="head"), *components.live("compare", _SECONDS)]


def register(app: Dash, context: Context) -> None:
    """Register the page's callback."""

    @app.callback(
        Output("compare", "children"),
        Output("compare-version", "data"),
        Input("compare-tick", "n_intervals"),
        Input("url", "search"),
        State("compare-version", "data"),
    )
    def _compare(_: int | None, search: str | None, version: str | None) -> Any:
        ids = list(dict.fromkeys(part for part in query(search).get("ids", "").split(",") if part))
        try:
            found = context.catalogue.compared(ids) if 2 <= len(ids) <= MAX_SWEEPS else None
        except SweepsError as error:
            new, shown = str(error), [components.notice(str(error))]
        else:
            new = found.version if found is not None else f"waiting for {ids}"
            shown = _waiting(ids) if found is None else []
        if new == version:
            return no_update, no_update
        return shown or _shown(found, ids), new


def _waiting(ids: Sequence[str]) -> list[Any]:
    if 2 <= len(ids) <= MAX_SWEEPS:
        return [html.P(f"Reading {len(ids)} sweeps …", className="lead reading", role="status")]
    return [_ask(ids)]


def _ask(ids: Sequence[str]) -> Any:
    many = f"At most {MAX_SWEEPS} sweeps can be compared." if len(ids) > MAX_SWEEPS else "Select at least two."
    pick = components.link("the list of sweeps", with_query("/", {"pick": ",".join(ids[:MAX_SWEEPS])}))
    return components.nothing("Select sweeps", [f"{many} Tick them in ", pick, "."])


def _shown(found: Compared | None, ids: Sequence[str]) -> list[Any]:
    assert found is not None
    comparison = found.comparison
    by_key = {table.key: table for table in comparison_tables(comparison)}
    return [
        html.Div(
            [_label(letter, r, ids) for letter, r in zip(comparison.letters, comparison.sweeps, strict=True)],
            className="letters",
        ),
        *(html.P(line, className="lead") for line in comparison_sentences(comparison)),
        *(components.notice(f"Finding: {finding}.") for finding in comparison_findings(comparison)),
        *filter(None, (_section(section, by_key) for section in found.sections)),
    ]


def _label(letter: str, results: Any, ids: Sequence[str]) -> Any:
    """Return a sweep's letter, name and verdicts, with links that remove it or compare with it."""
    sweep_id = results.files.sweep_id
    rest = [i for i in ids if not sweep_id.startswith(i)]
    first = components.link("Compare with this", with_query("/compare", {"ids": ",".join([sweep_id, *rest])}))
    away = components.link("Remove", with_query("/compare", {"ids": ",".join(rest)}))
    counts = dict(zip(VERDICTS, results.aggregate.verdicts.tolist(), strict=True))
    return html.Div(
        [
            html.P([html.B(letter), components.link(results.config.name, sweep_path(sweep_id), className="name")]),
            html.P(
                [html.Code(sweep_id), html.Span(components.moment(str(results.manifest["created"])))],
                className="over crumbs",
            ),
            components.strip(counts, "strip small"),
            html.P(["baseline" if letter == "A" else first, away], className="over crumbs"),
        ],
        className="letter",
    )


def _section(section: Section, by_key: dict[str, Table]) -> Any:
    shown = [_table(by_key[key]) for key in section.tables if key in by_key]
    folded = [
        html.Details([html.Summary(by_key[key].title), _table(by_key[key])]) for key in section.folded if key in by_key
    ]
    if section.figure is None and not shown and not folded:
        return None
    figure = components.graph(f"compare-{section.key}", section.figure) if section.figure is not None else None
    note = html.P(section.note, className="note") if section.note else None
    return html.Section([html.H2(section.title), note, figure, *shown, *folded], className="block")


def _table(table: Table) -> Any:
    note = f"{table.note[:1].upper()}{table.note[1:]}." if table.note else ""
    return html.Div([html.P(note, className="note") if note else None, components.table(table.frame)])
