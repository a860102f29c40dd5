"""The command that serves the dashboard."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from sweeps.cli.app import app
from sweeps.cli.options import DEFAULT_STORE, StoreOption


@app.command()
def dashboard(
    store: StoreOption = DEFAULT_STORE,
    host: Annotated[
        str, typer.Option("--host", help="Listen on this address; any other than localhost needs --users-file.")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, help="Listen on this port; 0: any free port.")
    ] = 8050,
    mlflow_url: Annotated[
        str | None,
        typer.Option("--mlflow-url", metavar="URL", help="Link to MLflow at this URL; default: the tracking server."),
    ] = None,
    users_file: Annotated[
        Path | None,
        typer.Option(
            "--users-file",
            envvar="SWEEPS_DASHBOARD_USERS_FILE",
            metavar="FILE",
            help="Allow the users in this file to log in: name:hash lines (--hash-password).",
        ),
    ] = None,
    secret_key_file: Annotated[
        Path | None,
        typer.Option(
            "--secret-key-file", metavar="FILE", help="Sign sessions with this key, so that they survive a restart."
        ),
    ] = None,
    allowed_hosts: Annotated[
        list[str] | None,
        typer.Option("--allowed-hosts", metavar="NAME", help="Accept this host name besides localhost; repeatable."),
    ] = None,
    hash_password: Annotated[
        bool, typer.Option("--hash-password", help="Hash a password from standard input, print the hash and exit.")
    ] = False,
) -> None:
    """Serve a live dashboard of the store's sweeps until Ctrl-C."""
    from sweeps.cli.terminal import out, say

    if hash_password:
        from dashboards.users import hashed

        out.print(hashed(_password()), markup=False, soft_wrap=True)
        return
    from dashboards.serve import serve
    from sweeps.store.store import Store

    home = Store(store)
    names = [name for given in allowed_hosts or () for name in given.split(",") if name]

    def started(address: str) -> None:
        say(f"dashboard: {address} (press Ctrl-C to stop)")
        sys.stdout.flush()

    serve(home, host, port, started, mlflow_url, users_file, secret_key_file, names)


def _password() -> str:
    """Prompt for a password without echo on a terminal; read a line of standard input elsewhere."""
    if sys.stdin.isatty():
        import getpass

        return getpass.getpass()
    return sys.stdin.readline().rstrip("\r\n")
