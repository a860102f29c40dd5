"""Progress of a running sweep, about once a second, for those who look from elsewhere: progress.json, Ray's metrics."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from sweeps.execution.progress import Counts
from sweeps.store.store import SweepFiles

if TYPE_CHECKING:
    from sweeps.execution.executor import Executor
    from sweeps.execution.progress import Progress

_SECONDS = 1.0  # between two looks


Sink = Callable[[Counts], None]


class ProgressReporter:
    """A Progress that passes everything on, and tells sinks once a second how far the sweep is, and a last time at the
    end, in a thread of its own.

    A sink that fails stops nothing: that is told once, and it is called again.

    Args:
        shown: the Progress that everything is passed on to.
        files: the sweep.
        executor: whose shards in flight are counted; None where nothing is computed.
        sinks: by name; called one after another.
        complain: told in a line what failed.
    """

    def __init__(
        self,
        shown: Progress,
        files: SweepFiles,
        executor: Executor | None,
        sinks: dict[str, Sink],
        complain: Callable[[str], None],
    ) -> None:
        """Silent before begin()."""
        self._shown, self._files, self._executor = shown, files, executor
        self._sinks, self._complain = sinks, complain
        self._counts = Counts()
        self._failing: set[str] = set()
        self._lock = threading.Lock()  # trials are computed and logged in two threads
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="progress", daemon=True)

    def begin(self, to_compute: int, to_log: int) -> None:
        """Tell where the sweep starts from; the executor is started."""
        manifest, stored = self._files.manifest(), self._files.stored_trials()
        trials = self._files.planned().trials
        if self._executor and (meter := self._executor.meter(self._files.sweep_id, str(manifest["name"]))) is not None:
            self._sinks["the cluster's metrics"] = meter
        given_up = trials - stored - to_compute
        self._counts = Counts(computed=stored, to_compute=trials, to_log=to_log, failed=given_up)
        self._shown.begin(to_compute, to_log)
        self._tell()
        self._thread.start()

    def extend(self, to_compute: int, to_log: int) -> None:
        """Another stage was planned."""
        with self._lock:
            counts = self._counts
            self._counts = replace(counts, to_compute=counts.to_compute + to_compute, to_log=counts.to_log + to_log)
        self._shown.extend(to_compute, to_log)

    def computed(self, trials: int) -> None:
        """So many more trials are in the store."""
        with self._lock:
            self._counts = replace(self._counts, computed=self._counts.computed + trials)
        self._shown.computed(trials)

    def failed(self, trials: int) -> None:
        """So many trials more could not be run."""
        with self._lock:
            self._counts = replace(self._counts, failed=self._counts.failed + trials)
        self._shown.failed(trials)

    def logged(self, trials: int) -> None:
        """So many more trials are in MLflow."""
        with self._lock:
            self._counts = replace(self._counts, logged=self._counts.logged + trials)
        self._shown.logged(trials)

    def end(self) -> None:
        """Tell where the sweep ends."""
        self._shown.end()
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(_SECONDS):
            self._tell()
        self._tell()

    def _tell(self) -> None:
        flying = self._executor.in_flight if self._executor and not self._ended.is_set() else 0
        with self._lock:
            counts = replace(self._counts, shards_in_flight=flying)
        for name, sink in self._sinks.items():
            try:
                sink(counts)
            except Exception as error:  # noqa: BLE001 - the sweep goes on without; it is told
                if name not in self._failing:
                    self._complain(f"the sweep goes on, but {name} cannot be told how far it is: {error}")
                self._failing.add(name)
            else:
                self._failing.discard(name)


def report_progress(
    shown: Progress, files: SweepFiles, executor: Executor | None, complain: Callable[[str], None]
) -> ProgressReporter:
    """A Progress that also keeps progress.json, and the metrics of the cluster that the sweep runs on."""
    return ProgressReporter(shown, files, executor, {"progress.json": _Keeper(files)}, complain)


class _Keeper:
    """Writes progress.json when it would say something new."""

    def __init__(self, files: SweepFiles) -> None:
        self._files = files
        self._written: Counts | None = None

    def __call__(self, counts: Counts) -> None:
        if counts != self._written:
            now = datetime.now(UTC).isoformat(timespec="seconds")
            self._files.write_progress(asdict(counts) | {"updated": now})
            self._written = counts
