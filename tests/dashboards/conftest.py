"""What the dashboard's tests share: the service's fixtures, and a dashboard served on a free port of this machine."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from werkzeug.serving import make_server

from dashboards.app import make_app
from sweeps.store import Store
from sweeps.worker import Work
from tests.sweeps.conftest import (
    Browser,
    browser,
    cli,
    document,
    make_config,
    make_work,
    migrated_database,
    store,
    stored,
)

__all__ = [
    "Browser",
    "browser",
    "cli",
    "document",
    "make_config",
    "make_work",
    "migrated_database",
    "store",
    "stored",
]

PARAMETERS = {
    "lr": {"min": 0.002, "max": 0.3, "count": 12, "scale": "log"},
    "momentum": {"values": [0, 0.5, 0.9]},
    "nesterov": {"values": [False, True]},
    "init.weight": {"values": [-0.66, 1.0]},
    "init.bias": {"value": 0.33},
}


@contextmanager
def served(store: Store) -> Iterator[str]:
    """The dashboard of a store, and its address; a server that can be ended, test_access.py has the real one."""
    server = make_server("127.0.0.1", 0, make_app(store), threaded=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def line(make_work: Callable[..., Work]) -> Work:
    """120 trials, a map of two panels, two trials a cell."""
    return make_work(parameters=PARAMETERS, training={"epochs": 60}, execution={"trials_per_shard": 30})
