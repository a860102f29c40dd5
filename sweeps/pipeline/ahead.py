"""Import ahead what a sweep needs at its end, while this process only waits for a cluster."""

from __future__ import annotations

from contextlib import suppress
from importlib import import_module
from threading import Thread

from sweeps.planning.prepared import PreparedSweep

_REPORT = ("sweeps.report.files", "sweeps.report.figures", "plotly.graph_objects", "jinja2", "matplotlib.figure")


def import_ahead(prepared: PreparedSweep) -> None:
    """Start to import, in a thread that nobody waits for."""
    compares = any(not isinstance(expected.final, dict) for expected in prepared.config.expected)
    names = ("torch",) * compares + _REPORT
    Thread(target=_import, args=(names,), name="import ahead", daemon=True).start()


def _import(names: tuple[str, ...]) -> None:
    for name in names:
        with suppress(Exception):  # raised again where the module is used
            import_module(name)
