"""Commands that serve pages: dashboard."""

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
    host: Annotated[str, typer.Option("--host", help="Where to listen; others reach it with a users file only.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0 takes any free port.")] = 8050,
    mlflow_url: Annotated[
        str | None,
        typer.Option("--mlflow-url", metavar="URL", help="Where people browse MLflow; by default the tracking server."),
    ] = None,
    users_file: Annotated[
        Path | None,
        typer.Option(
            "--users-file",
            envvar="SWEEPS_DASHBOARD_USERS_FILE",
            metavar="FILE",
            help="Who may log in: lines name:hash (see --hash-password).",
        ),
    ] = None,
    secret_key_file: Annotated[
        Path | None,
        typer.Option(
            "--secret-key-file", metavar="FILE", help="Signs the sessions, so that they outlive a restart; else random."
        ),
    ] = None,
    allowed_hosts: Annotated[
        list[str] | None,
        typer.Option(
            "--allowed-hosts", metavar="NAME", help="A name that it is reached by, beside localhost; repeatable."
        ),
    ] = None,
    hash_password: Annotated[
        bool, typer.Option("--hash-password", help="Print the hash of a password given on standard input, and end.")
    ] = False,
) -> None:
    """Serve a live page over the store: all sweeps, their maps and trials, until Ctrl-C."""
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
        say(f"dashboard: {address} (Ctrl-C ends it)")
        sys.stdout.flush()

    serve(home, host, port, started, mlflow_url, users_file, secret_key_file, names)


def _password() -> str:
    """From a terminal without showing it, else a line of standard input."""
    if sys.stdin.isatty():
        import getpass

        return getpass.getpass()
    return sys.stdin.readline().rstrip("\r\n")
