"""The app: Dash on Flask, with its pages by address and other routes: health, metrics and the stored reports."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import dash
from dash import Dash, Input, Output, State, dcc, html
from flask import Flask, Response, abort

from dashboards import auth, components
from dashboards.context import Context
from dashboards.pages import compare, history, sweep, sweeps
from dashboards.store_cache import Catalogue
from dashboards.urls import Mlflow
from dashboards.users import Users
from sweeps.errors import StoreError
from sweeps.service.monitoring.prometheus import CONTENT_TYPE, exposition
from sweeps.store.store import Store

_HERE = Path(__file__).parent
_SWEEP = re.compile(r"/sweeps/([0-9a-f]{1,32})/?")
_PAGES = {"/": "Sweeps", "/compare": "Compare", "/history": "History"}
# A report's script runs in a page without an origin: it can access neither the session nor the dashboard.
_REPORT_HEADERS = {
    "Content-Security-Policy": "sandbox allow-scripts allow-downloads; default-src 'none'; script-src 'unsafe-inline'; "
    "style-src 'unsafe-inline'; img-src data: blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "unsafe-none",  # with another value, browsers refuse to show sandboxed pages
}
_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{%title%}</title>
<link rel="icon" href="/assets/icon.svg" type="image/svg+xml">
{%css%}
</head>
<body>{%app_entry%}<footer>{%config%}{%scripts%}{%renderer%}</footer></body>
</html>"""


def make_app(
    store: Store,
    mlflow_address: str | None = None,
    users: Users | None = None,
    hosts: Sequence[str] = auth.LOOPBACK,
    key: bytes | None = None,
) -> Flask:
    """Return the dashboard of a store as a WSGI application; it writes nothing.

    Args:
        store: the store to show.
        mlflow_address: the address at which users open MLflow.
        users: the users who can log in; None disables the login.
        hosts: the host names at which the dashboard is reached.
        key: the key that signs sessions; random by default.
    """
    server = Flask("dashboards", template_folder=str(_HERE / "templates"), static_folder=None)
    context = Context(Catalogue(store), Mlflow(mlflow_address))
    app = Dash(
        "dashboards",
        server=server,  # type: ignore[arg-type] # Dash's own documentation passes a Flask
        assets_folder=str(_HERE / "assets"),
        assets_ignore=r"login\.js",
        index_string=_PAGE,
        title="sweeps",
        update_title="",
        suppress_callback_exceptions=True,
        serve_locally=True,
        add_log_handler=False,
        enable_mcp=False,
        on_error=_failed,
    )
    app.layout = lambda: _shell(store, auth.visitor(users) if users is not None else None)
    _add_pages(app, context)
    _add_routes(server, context)
    auth.protect(server, users, hosts, key or auth.secret_key(None), app.csp_hashes())
    return server


def _shell(store: Store, user: str | None) -> html.Div:
    """Return the frame that all pages share."""
    leave = html.Form(html.Button("Log out", type="submit", className="plain"), action="/logout", method="post")
    return html.Div(
        [
            dcc.Location(id="url", refresh=False),
            html.Header(
                [
                    components.link(
                        [
                            html.Span(
                                [html.I(), html.I(), html.I()], className="mark", **components.aria(hidden="true")
                            ),
                            "sweeps",
                        ],
                        "/",
                        className="brand",
                    ),
                    html.Nav(
                        [components.link(title, path) for path, title in _PAGES.items()],
                        id="nav",
                        **components.aria(label="Pages"),
                    ),
                    html.Span(store.where, className="store", title="The store"),
                    *([html.Span(user, className="user"), leave] if user is not None else []),
                ],
                className="top",
            ),
            html.Main(id="page"),
        ]
    )


def _add_pages(app: Dash, context: Context) -> None:
    @app.callback(
        Output("page", "children"), Output("nav", "children"), Input("url", "pathname"), State("url", "search")
    )
    def _page(path: str | None, search: str | None) -> Any:
        path = path or "/"
        nav = [
            components.link(title, to, **(components.aria(current="page") if to == path else {}))
            for to, title in _PAGES.items()
        ]
        try:
            return _content(context, path, search), nav
        except StoreError as error:
            return components.nothing("Not found", str(error)), nav

    sweeps.register(app, context)
    sweep.register(app, context)
    compare.register(app, context)
    history.register(app, context)


def _content(context: Context, path: str, search: str | None) -> Any:
    if path == "/":
        return sweeps.layout(context, search)
    if (found := _SWEEP.fullmatch(path)) is not None:
        return sweep.layout(context, found[1])
    if path == "/compare":
        return compare.layout()
    if path == "/history":
        return history.layout()
    return components.nothing("Not found", f"The page {path} does not exist.")


def _add_routes(server: Flask, context: Context) -> None:
    @server.get("/healthz")
    def _healthz() -> Response:
        return Response("ok\n", mimetype="text/plain")

    @server.get("/metrics")
    def _metrics() -> Response:
        return Response(exposition(context.catalogue.store), content_type=CONTENT_TYPE)

    @server.get("/sweeps/<sweep_id>/report.html")
    def _report(sweep_id: str) -> Response:
        try:
            page = context.catalogue.files(sweep_id).report.read()
        except StoreError as error:
            return Response(f"{error}\n", 404, mimetype="text/plain")
        if page is None:
            abort(404)
        return Response(page, mimetype="text/html", headers=_REPORT_HEADERS)


def _failed(error: Exception) -> Any:
    """Keep the page as it was if a sweep has since been removed, which is not an error."""
    if not isinstance(error, StoreError):
        raise error
    logging.getLogger(__name__).warning("%s", error)
    return dash.no_update
