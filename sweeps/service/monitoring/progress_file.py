"""Progress of a running sweep for other processes, updated every second: progress.json and Ray's metrics."""

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

_SECONDS = 1.0  # between updates


Sink = Callable[[Counts], None]


class ProgressReporter:
    """A Progress that forwards all calls, and reports the counts to sinks every second and at the end.

    Sinks are called in a separate thread. A failing sink does not stop the sweep: the failure is reported once, and the
    sink is called again at the next update.

    Args:
        shown: the Progress to forward calls to.
        files: the sweep.
        executor: the executor whose shards in flight are counted; None if nothing is computed.
        sinks: the sinks by name, called in order.
        complain: called with a one-line message when a sink fails.
    """

    def __init__(
        self,
        shown: Progress,
        files: SweepFiles,
        executor: Executor | None,
        sinks: dict[str, Sink],
        complain: Callable[[str], None],
    ) -> None:
        """Create the reporter; begin() starts it."""
        self._shown, self._files, self._executor = shown, files, executor
        self._sinks, self._complain = sinks, complain
        self._counts = Counts()
        self._failing: set[str] = set()
        self._steps = 0  # of a trial
        self._lock = threading.Lock()  # trials are computed and logged in two threads
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="progress", daemon=True)

    def begin(self, to_compute: int, to_log: int) -> None:
        """Report the initial counts and start the updates. The executor must have been started."""
        manifest, stored = self._files.manifest(), self._files.stored_trials()
        self._steps = manifest.get("steps") or 0
        trials = self._files.planned().trials
        if self._executor and (meter := self._executor.meter(self._files.sweep_id, str(manifest["name"]))) is not None:
            self._sinks["the cluster's metrics"] = meter
        given_up = trials - stored - to_compute
        self._counts = Counts(computed=stored, to_compute=trials, to_log=to_log, failed=given_up)
        self._shown.begin(to_compute, to_log)
        self._tell()
        self._thread.start()

    def extend(self, to_compute: int, to_log: int) -> None:
        """Add the trials of another stage to the totals."""
        with self._lock:
            counts = self._counts
            self._counts = replace(counts, to_compute=counts.to_compute + to_compute, to_log=counts.to_log + to_log)
        self._shown.extend(to_compute, to_log)

    def computed(self, trials: int) -> None:
        """Count trials that are now in the store."""
        with self._lock:
            self._counts = replace(self._counts, computed=self._counts.computed + trials)
        self._shown.computed(trials)

    def training(self, trials: float) -> None:
        """Show the progress of shards in flight."""
        self._shown.training(trials)

    def failed(self, trials: int) -> None:
        """Count trials that could not be run."""
        with self._lock:
            self._counts = replace(self._counts, failed=self._counts.failed + trials)
        self._shown.failed(trials)

    def logged(self, trials: int) -> None:
        """Count trials that are now in MLflow."""
        with self._lock:
            self._counts = replace(self._counts, logged=self._counts.logged + trials)
        self._shown.logged(trials)

    def end(self) -> None:
        """Report the final counts and stop the updates."""
        self._shown.end()
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(_SECONDS):
            self._tell()
        self._tell()

    def _tell(self) -> None:
        executor = None if self._ended.is_set() else self._executor
        flying, steps = (executor.in_flight, executor.trial_steps) if executor is not None else (0, 0)
        with self._lock:
            counts = self._counts
        steps = min(steps, self._steps * (counts.to_compute - counts.computed))
        if self._steps and executor is not None:
            self._shown.training(steps / self._steps)
        counts = replace(
            counts,
            shards_in_flight=flying,
            trial_steps=counts.computed * self._steps + steps,
            trial_steps_planned=counts.to_compute * self._steps,
        )
        for name, sink in self._sinks.items():
            try:
                sink(counts)
            except Exception as error:  # noqa: BLE001 - progress is optional; the failure is reported
                if name not in self._failing:
                    self._complain(f"the sweep continues, but its progress cannot be written to {name}: {error}")
                self._failing.add(name)
            else:
                self._failing.discard(name)


def report_progress(
    shown: Progress, files: SweepFiles, executor: Executor | None, complain: Callable[[str], None]
) -> ProgressReporter:
    """Return a Progress that also updates progress.json and the metrics of the Ray cluster."""
    return ProgressReporter(shown, files, executor, {"progress.json": _Keeper(files)}, complain)


class _Keeper:
    """A sink that writes progress.json when the counts have changed."""

    def __init__(self, files: SweepFiles) -> None:
        self._files = files
        self._written: Counts | None = None

    def __call__(self, counts: Counts) -> None:
        if counts != self._written:
            now = datetime.now(UTC).isoformat(timespec="seconds")
            self._files.write_progress(asdict(counts) | {"updated": now})
            self._written = counts
