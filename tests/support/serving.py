"""Servers in a thread of the test process, on a free port of this machine."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from socketserver import BaseServer
from typing import Any

from werkzeug.serving import WSGIRequestHandler, make_server

from sweeps.store.store import Store

_LOOK_SECONDS = 0.05  # between two checks for a shutdown


@contextmanager
def serving(server: BaseServer) -> Iterator[str]:
    """Run a server inside the context and yield its address."""
    thread = threading.Thread(target=server.serve_forever, args=(_LOOK_SECONDS,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Quiet(WSGIRequestHandler):
    def log_request(self, *_: Any) -> None:
        pass


@contextmanager
def served_dashboard(store: Store) -> Iterator[str]:
    """Serve a store's dashboard and yield its address; tests/dashboards/test_auth.py runs the real server."""
    from dashboards.app import make_app  # slow to import, and not needed by other servers

    with serving(make_server("127.0.0.1", 0, make_app(store), threaded=True, request_handler=_Quiet)) as address:
        yield address
