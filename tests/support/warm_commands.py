"""What a sweep's command does, done once where this is imported, so that processes forked from there do it sooner.

Most of the time of a small sweep is spent on what a process does once: imports within functions, compiled kernels,
plotly's and matplotlib's caches. Nothing here leaves threads behind, which a fork would lose.
"""

import tempfile
from pathlib import Path

import rich.progress  # noqa: F401 - imported for the processes that are forked

from sweeps.config.loader import parse
from sweeps.planning.prepared import prepare
from sweeps.report.figures.static import stills
from sweeps.report.files import write_report
from sweeps.results.results import load_results
from sweeps.store.store import Store
from tests.support.documents import document
from tests.support.stores import computed_into


def _warm() -> None:
    with tempfile.TemporaryDirectory(prefix="sweeps-warm-") as folder:
        files = computed_into(Store(Path(folder)), "ab", prepare(parse(document(), "test.yaml")))
        write_report(load_results(files))
        stills(load_results(files))


_warm()
