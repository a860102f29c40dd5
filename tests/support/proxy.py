"""A failing proxy: it forwards to a real MLflow server, but answers some calls as an overloaded server would."""

from __future__ import annotations

import http.client
import http.server
import json
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from tests.support.serving import serving

POOL = {"error_code": "BAD_REQUEST", "message": "QueuePool limit of size 5 overflow 10 reached, connection timed out"}
BUSY = {"error_code": "TEMPORARILY_UNAVAILABLE", "message": "(sqlite3.OperationalError) database is locked"}
ANSWERS: dict[str, tuple[int, dict[str, str], bytes]] = {
    "429": (429, {"Retry-After": "0"}, b"slow down"),
    "503": (503, {}, json.dumps(BUSY).encode()),
    "502": (502, {}, b"<html>Bad Gateway</html>"),
    "pool": (400, {}, json.dumps(POOL).encode()),
}
FAULTS = (
    *ANSWERS,
    "lost before",
    "lost after",
)  # the connection breaks before or after MLflow has processed the call
Plan = Callable[[str, int], str]  # (endpoint, number of earlier calls to it) -> a fault, or "" to forward


class Proxy(http.server.ThreadingHTTPServer):
    """A proxy whose faults are chosen by ``plan``; ``seen`` counts calls by endpoint and fault."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, upstream: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.upstream = urlsplit(upstream).netloc
        self.uri = f"http://127.0.0.1:{self.server_port}"
        self.distance = 0.0  # delay in seconds added to each call
        self._lock = threading.Lock()
        self.behave(lambda endpoint, count: "")

    def behave(self, plan: Plan) -> None:
        """Reset the counts and use another plan."""
        self.plan: Plan = plan
        self.seen: Counter[tuple[str, str]] = Counter()
        self._calls: Counter[str] = Counter()

    def fault(self, endpoint: str) -> str:
        """Return the fault of the next call of an endpoint."""
        with self._lock:
            fault = self.plan(endpoint, self._calls[endpoint])
            self._calls[endpoint] += 1
            self.seen[endpoint, fault] += 1
        return fault

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore clients that disconnect."""


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Proxy

    def _forward(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        time.sleep(self.server.distance)
        fault = self.server.fault(self.path.partition("/mlflow/")[2].partition("?")[0])
        if fault in ANSWERS:
            self._answer(*ANSWERS[fault])
            return
        if fault == "lost before":
            self._break()
            return
        upstream = http.client.HTTPConnection(self.server.upstream, timeout=60)
        headers = {key: value for key, value in self.headers.items() if key.lower() not in ("host", "connection")}
        upstream.request(self.command, self.path, body, headers)
        response = upstream.getresponse()
        content = response.read()
        upstream.close()
        if fault == "lost after":
            self._break()
            return
        self._answer(response.status, {"Content-Type": response.headers.get("Content-Type", "")}, content)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _forward

    def _answer(self, status: int, headers: dict[str, str], content: bytes) -> None:
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(content)

    def _break(self) -> None:
        """Close the connection with a reset."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def proxy(upstream: str) -> Iterator[Proxy]:
    """Run a proxy in front of a server inside the context."""
    server = Proxy(upstream)
    with serving(server):
        yield server
