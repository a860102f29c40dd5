"""The page of all sweeps: state, progress and key figures, live; sorting, filter and selection are in the address."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from dash import Dash, Input, Output, State, dcc, html, no_update

from dashboards import components
from dashboards.context import Context
from dashboards.store_cache import Row
from dashboards.urls import query, report_path, sweep_path, with_query
from sweeps.text.formatting import number, percent

PAGE = 50  # sweeps per page
_SECONDS = 2
_KEYS: dict[str, Callable[[Row], Any]] = {
    "name": lambda row: row.name.casefold(),
    "state": lambda row: components.STATES.index(row.state),
    "trials": lambda row: row.trials,
    "stable": lambda row: row.stats.stable / row.stats.trials if row.stats and row.stats.trials else -1.0,
    "best": lambda row: row.stats.best if row.stats and row.stats.best is not None else math.inf,
    "created": lambda row: row.created,
}
_COLUMNS = {
    "name": "Sweep",
    "state": "State",
    "": "Progress",
    "trials": "Trials",
    "stable": "Stable",
    "best": "Best loss",
    "created": "Created",
}
_NUMBERS = ("trials", "best")


def layout(context: Context, search: str | None) -> list[Any]:
    """Return the page."""
    asked = query(search)
    return [
        html.Div(
            [
                html.H1("Sweeps"),
                dcc.Input(
                    id="filter",
                    type="search",
                    value=asked.get("q", ""),
                    placeholder="Filter by name, id or tag",
                    debounce=0.3,
                    className="filter",
                    autoComplete="off",
                ),
            ],
            className="head",
        ),
        *components.live("list", _SECONDS, className="list"),
    ]


def register(app: Dash, context: Context) -> None:
    """Register the page's callbacks."""

    @app.callback(
        Output("list", "children"),
        Output("list-version", "data"),
        Input("list-tick", "n_intervals"),
        Input("url", "search"),
        State("list-version", "data"),
    )
    def _list(_: int | None, search: str | None, version: str | None) -> Any:
        rows = context.catalogue.rows()
        new = f"{hash(repr((rows, search)))}-{datetime.now(UTC):%H%M}"
        return (no_update, no_update) if new == version else (_listed(context, rows, query(search)), new)

    @app.callback(Output("url", "search"), Input("filter", "value"), State("url", "search"), prevent_initial_call=True)
    def _filter(text: str | None, search: str | None) -> Any:
        asked = query(search)
        if (text or "") == asked.get("q", ""):
            return no_update
        return with_query("", asked | {"q": text or None, "page": None})


def _listed(context: Context, rows: Sequence[Row], asked: dict[str, str]) -> list[Any]:
    if not rows:
        return [components.nothing("No sweeps yet", ["Start one: ", html.Code("sweeps run configs/seed.yaml")])]
    found = [row for row in rows if _matches(row, asked.get("q", ""))]
    shown = [row for row in found if asked.get("state") in (None, row.state)]
    key = asked.get("sort", "-created")
    if (how := _KEYS.get(key.lstrip("-"))) is not None and key != "-created":
        shown = sorted(shown, key=how, reverse=key.startswith("-"))
    pages = max(1, -(-len(shown) // PAGE))
    page = min(max(1, int(asked["page"]) if asked.get("page", "").isdecimal() else 1), pages)
    picked = [part for part in asked.get("pick", "").split(",") if part]
    body = [_row(context, row, asked, picked) for row in shown[(page - 1) * PAGE : page * PAGE]]
    table = html.Table([html.Thead(html.Tr(_heads(asked, key))), html.Tbody(body)], className="sweeps")
    return [
        _summary(rows, found, asked),
        html.Div(table, className="scroll") if shown else components.nothing("No sweeps match", "Clear the filter."),
        pager(asked, page, pages) if pages > 1 else None,
        _picked(picked, asked) if picked else None,
    ]


def _matches(row: Row, text: str) -> bool:
    tags = (f"{name}={value} {name} {value}" for name, value in row.tags.items())
    searched = " ".join([row.name, row.sweep_id, *tags]).casefold()
    return all(word in searched for word in text.casefold().split())


def _summary(rows: Sequence[Row], found: Sequence[Row], asked: dict[str, str]) -> html.Div:
    """Return the number of sweeps and links that filter by state."""
    trials = sum(row.computed for row in rows)
    chosen = asked.get("state")
    chips: list[tuple[str, int, str | None]] = [("all", len(found), None)]
    chips += [(s, count, s) for s in components.STATES if (count := sum(r.state == s for r in found)) or s == chosen]
    links = [
        components.link(
            [name, html.Span(f"{count:,}")],
            with_query("/", asked | {"state": state, "page": None}),
            className=f"chip {'on' if state == chosen else ''} {f'chip-{state}' if state else ''}",
        )
        for name, count, state in chips
    ]
    return html.Div(
        [
            html.Nav(links, className="chips", **components.aria(label="States")),
            html.P(f"{trials:,} trials in {len(rows):,} sweep{'s' * (len(rows) != 1)}", className="over"),
        ],
        className="summary",
    )


def _heads(asked: dict[str, str], key: str) -> list[html.Th]:
    heads = [html.Th(html.Span("Compare", className="unseen"), className="pick")]
    for name, title in _COLUMNS.items():
        if not name:
            heads.append(html.Th(title, scope="col"))
            continue
        first = name if name in ("name", "state", "best") else f"-{name}"
        other = first[1:] if first.startswith("-") else f"-{first}"
        target = other if key == first else first
        sorted_ = key.lstrip("-") == name
        arrow = html.Span(("↓" if key.startswith("-") else "↑") if sorted_ else "", className="arrow")
        href = with_query("/", asked | {"sort": None if target == "-created" else target, "page": None})
        order = components.aria(sort="descending" if key.startswith("-") else "ascending") if sorted_ else {}
        kind = "number" if name in _NUMBERS else ""
        heads.append(html.Th(components.link([title, arrow], href), scope="col", className=kind, **order))
    return [*heads, html.Th("Links", scope="col")]


def _row(context: Context, row: Row, asked: dict[str, str], picked: Sequence[str]) -> html.Tr:
    stats = row.stats
    has = stats is not None and stats.trials > 0
    links: list[Any] = [components.outside("Report", report_path(row.sweep_id))] if row.is_reported else []
    if (address := context.mlflow.run(row)) is not None:
        links.append(components.outside("MLflow", address))
    known = stats is not None or not row.key[0]
    stable: Any = "–" if known else html.Span("reading", className="soft")
    if stats is not None and has:
        stable = [components.strip(stats.verdicts, "strip small"), html.Span(percent(stats.stable, stats.trials))]
    best = number(stats.best) if stats is not None and stats.best is not None else "–"
    return html.Tr(
        [
            html.Td(_box(row, asked, picked), className="pick"),
            html.Td(
                [
                    components.link(row.name or row.sweep_id, sweep_path(row.sweep_id), className="name"),
                    html.Div([html.Code(row.sweep_id), *components.tags(row.tags)], className="under"),
                ],
                className="title",
            ),
            _cell("State", components.pill(row.state)),
            _cell("Progress", bars(row)),
            _cell("Trials", f"{row.trials:,}", "number"),
            _cell("Stable", html.Div(stable, className="stable")),
            _cell("Best loss", best, "number"),
            _cell(
                "Created",
                html.Time(components.age(row.created), dateTime=row.created, title=components.moment(row.created)),
            ),
            html.Td(html.Div(links, className="links"), className="last"),
        ],
        id=f"sweep-{row.sweep_id}",
    )


def _cell(label: str, content: Any, kind: str = "") -> html.Td:
    said: dict[str, Any] = {"data-label": label}
    return html.Td(content, className=kind, **said)


def bars(row: Row) -> Any:
    """Return progress bars of computed and logged trials, if they show more than the state."""
    if row.state == "damaged":
        return "–"
    if row.state not in ("running", "interrupted", "planned") and row.computed >= row.trials:
        return html.Span(["all computed", f", {row.logged:,} in MLflow" if row.logged else ""], className="soft")
    shown = [components.progress(row.computed, row.trials, f"{row.computed:,} of {row.trials:,} computed")]
    if row.logged is not None and row.to_log:
        shown.append(components.progress(row.logged, row.to_log, f"{row.logged:,} of {row.to_log:,} logged", "logged"))
    return html.Div(shown, className="bars")


def _box(row: Row, asked: dict[str, str], picked: Sequence[str]) -> html.A:
    on = row.sweep_id in picked
    rest = [part for part in picked if part != row.sweep_id] if on else [*picked, row.sweep_id]
    return components.link(
        "✓" if on else "",
        with_query("/", asked | {"pick": ",".join(rest)}),
        className=f"box {'on' if on else ''}",
        role="checkbox",
        title="Select for comparison",
        **components.aria(checked=str(on).lower(), label=f"Select {row.name}"),
    )


def _picked(picked: Sequence[str], asked: dict[str, str]) -> html.Div:
    go = with_query("/compare", {"ids": ",".join(picked)})
    return html.Div(
        [
            html.Span(f"{len(picked)} selected"),
            components.link("Compare", go, className="button")
            if len(picked) > 1
            else html.Span("select one more to compare"),
            components.link("Clear", with_query("/", asked | {"pick": None})),
        ],
        className="picked",
        role="status",
    )


def pager(asked: dict[str, str], page: int, pages: int, path: str = "/", name: str = "page") -> html.Nav:
    """Return links to the previous and next page."""

    def to(other: int, text: str) -> Any:
        if not 1 <= other <= pages:
            return html.Span(text, className="soft")
        return components.link(text, with_query(path, asked | {name: str(other) if other > 1 else None}))

    return html.Nav(
        [to(page - 1, "← Previous"), html.Span(f"{page:,} of {pages:,}", className="soft"), to(page + 1, "Next →")],
        className="pager",
        **components.aria(label="Pages"),
    )
