"""serve(): run the dashboard on this machine with waitress until it is interrupted."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from dashboards import auth
from sweeps.errors import InputError
from sweeps.store.store import Store

_THREADS = 8
_MOST_BYTES = 4 * 1024 * 1024  # per request


def serve(
    store: Store,
    host: str,
    port: int,
    started: Callable[[str], None],
    mlflow_address: str | None = None,
    users_file: Path | None = None,
    secret_key_file: Path | None = None,
    allowed_hosts: Sequence[str] = (),
) -> None:
    """Serve a store's dashboard until SIGINT or SIGTERM; calls ``started`` with its address.

    Raises:
        InputError: the address cannot be used, it is reachable from other machines without a users file, or a file
            cannot be read.
    """
    if not auth.is_loopback(host) and users_file is None:
        raise InputError(
            f"--host {host}: other machines can reach this address, so it needs a login: pass --users-file "
            "(or SWEEPS_DASHBOARD_USERS_FILE), or use --host 127.0.0.1"
        )
    from waitress import create_server

    from dashboards import connections
    from dashboards.app import make_app
    from dashboards.users import Users

    users = Users(users_file) if users_file is not None else None
    hosts = [*auth.LOOPBACK, host, *allowed_hosts]
    app = make_app(store, mlflow_address, users, hosts, auth.secret_key(secret_key_file))
    bind = "127.0.0.1" if host == "localhost" else host
    logging.getLogger("waitress.queue").setLevel(
        logging.ERROR
    )  # browsers send more requests at once than there are threads
    try:
        server = create_server(
            app,
            host=bind,
            port=port,
            threads=_THREADS,
            ident="",
            max_request_body_size=_MOST_BYTES,
            clear_untrusted_proxy_headers=True,
            **connections.LIMITS,
        )
        connections.limit(server)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"--host {host} --port {port}: cannot serve the dashboard there: {reason}") from error
    shown = f"[{bind}]" if ":" in bind else bind
    started(f"http://{shown}:{server.effective_port}")
    try:
        server.run()  # ends on SIGINT, and on SIGTERM, which the command line handles as SIGINT
    finally:
        server.close()
