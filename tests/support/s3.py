"""A real S3 server, moto's, on a free port of 127.0.0.1, which can be stopped, restarted, and made to fail."""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

Plan = Callable[[str, str], str]  # (method, path) -> a status to answer with, such as "503", or "" to proceed


class S3Server:
    """A server whose content survives a stop. It serves one call at a time, so a condition and its write are atomic."""

    def __init__(self) -> None:
        from moto.server import DomainDispatcherApplication, create_backend_app

        self._app = DomainDispatcherApplication(create_backend_app)
        self._lock = threading.Lock()
        self._port = 0
        self.heeds_conditions = True
        self.behave(lambda method, path: "")
        self.start()

    def behave(self, plan: Plan) -> None:
        """Use another plan and reset the counts of calls and of answered bytes."""
        self.plan: Plan = plan
        self.seen: Counter[str] = Counter()
        self.sent: Counter[str] = Counter()

    @property
    def uri(self) -> str:
        """The endpoint's URI."""
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Listen, on the same port as before."""
        from werkzeug.serving import WSGIRequestHandler, make_server

        class Quiet(WSGIRequestHandler):
            def log_request(self, *_: Any) -> None:
                pass

        self._server = make_server("127.0.0.1", self._port, self._answer, threaded=True, request_handler=Quiet)
        self._port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    def stop(self) -> None:
        """Stop accepting connections."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def _answer(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        call = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        if status := self.plan(*call):
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            start_response(f"{status} Fault", [("Content-Length", "0")])
            return []
        if not self.heeds_conditions:
            environ = {name: value for name, value in environ.items() if not name.startswith("HTTP_IF_")}
        with self._lock:
            content = b"".join(self._app(environ, start_response))
            self.seen[call[0]] += 1
            self.sent[call[1]] += len(content)
        return [content]


@contextmanager
def s3_server() -> Iterator[S3Server]:
    """Run a server inside the context; yield it and the environment that points to it."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            patch.delenv(name)
        server = S3Server()
        facts = {"ENDPOINT_URL": server.uri, "ACCESS_KEY_ID": "key", "SECRET_ACCESS_KEY": "geheim", "MAX_ATTEMPTS": "2"}
        for name, value in (facts | {"DEFAULT_REGION": "us-east-1"}).items():
            patch.setenv(f"AWS_{name}", value)
        try:
            yield server
        finally:
            server.stop()
