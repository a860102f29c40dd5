"""Background: slow reads of the store, one at a time in a separate thread, so that pages do not wait for them."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

_log = logging.getLogger(__name__)


class Background:
    """A thread that runs functions in order; at most one function per name waits or runs."""

    def __init__(self, name: str) -> None:
        """Start the thread; it ends with the process."""
        self._queue: queue.SimpleQueue[tuple[str, Callable[[], Any], Future[Any]]] = queue.SimpleQueue()
        self._pending: dict[str, Future[Any]] = {}
        self._lock = threading.Lock()
        threading.Thread(target=self._work, name=name, daemon=True).start()

    def ask(self, name: str, function: Callable[[], Any]) -> Future[Any]:
        """Submit the function unless one of that name is waiting or running; return the future of either."""
        with self._lock:
            future = self._pending.get(name)
            if future is None:
                future = self._pending[name] = Future()
                self._queue.put((name, function, future))
        return future

    def _work(self) -> None:
        while True:
            name, function, future = self._queue.get()
            try:
                result, error = function(), None
            except Exception as problem:  # noqa: BLE001 - the future reports it; the next function must still run
                _log.exception("%s", name)
                result, error = None, problem
            with self._lock:
                del self._pending[name]
            if error is None:
                future.set_result(result)
            else:
                future.set_exception(error)
