"""Prometheus metrics of a store's sweeps, computed from the store at each request.

To limit the number of labels, a sweep has its own series only while it runs and for an hour after its last update.
Only the newest sweeps are inspected, and no shards are read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from sweeps.errors import StoreError
from sweeps.execution.progress import Counts
from sweeps.store.store import STATES, Store, SweepFiles

_MOST_SWEEPS = 1000  # sweeps to inspect
_MOST_SERIES = 50  # sweeps with their own series
_KEPT = timedelta(hours=1)
_DAMAGED = "damaged"
_LABELS = ("sweep_id", "sweep")
_COUNTERS: dict[str, tuple[str, Callable[[Counts], int]]] = {
    "sweeps_trials_computed": ("Trials computed and stored.", lambda counts: counts.computed),
    "sweeps_trials_logged": ("Trials logged to MLflow.", lambda counts: counts.logged),
}
_GAUGES: dict[str, tuple[str, Callable[[Counts], int]]] = {
    "sweeps_trials_planned": ("Trials of the sweep.", lambda counts: counts.to_compute),
    "sweeps_trials_to_log": ("Trials to be logged to MLflow.", lambda counts: counts.to_log),
    "sweeps_trials_failed": ("Trials that could not be run.", lambda counts: counts.failed),
    "sweeps_shards_in_flight": ("Shards submitted and not finished.", lambda counts: counts.shards_in_flight),
    "sweeps_trial_steps": ("Steps done, summed over trials, running ones included.", lambda counts: counts.trial_steps),
    "sweeps_trial_steps_planned": (
        "Steps of the sweep, summed over trials.",
        lambda counts: counts.trial_steps_planned,
    ),
    "sweeps_tracking_lag_trials": ("Computed trials that are not in MLflow yet.", lambda counts: counts.lag),
}


def exposition(store: Store) -> bytes:
    """Return the metrics as text with the content type ``CONTENT_TYPE``."""
    registry = CollectorRegistry()
    registry.register(_Collector(store))
    return generate_latest(registry)


CONTENT_TYPE = CONTENT_TYPE_LATEST


class _Collector:
    def __init__(self, store: Store) -> None:
        self._store = store

    def collect(self) -> Iterator[Metric]:
        """Yield the metric families of one response."""
        everything = self._store.sweeps()
        newest = [(files, _state(files)) for files in everything[:_MOST_SWEEPS]]
        states = Counter(state for _, state in newest)
        by_state = GaugeMetricFamily("sweeps_sweeps", "Sweeps of the store by state.", labels=("state",))
        for state in (*STATES, _DAMAGED):
            by_state.add_metric((state,), states[state])
        yield by_state
        yield GaugeMetricFamily("sweeps_store_sweeps", "Sweeps of the store.", value=len(everything))
        yield from _series([(files, state) for files, state in newest if _is_shown(files, state)][:_MOST_SERIES])


def _series(shown: list[tuple[SweepFiles, str]]) -> Iterator[Metric]:
    """Yield the metric families with one series per sweep."""
    rows = [((files.sweep_id, str(files.manifest()["name"])), _counts(files, state), state) for files, state in shown]
    for kind, table in ((CounterMetricFamily, _COUNTERS), (GaugeMetricFamily, _GAUGES)):
        for name, (text, value) in table.items():
            family = kind(name, text, labels=_LABELS)
            for labels, counts, _ in rows:
                family.add_metric(labels, value(counts))
            yield family
    family = GaugeMetricFamily("sweeps_sweep_state", "1 for the sweep's state.", labels=(*_LABELS, "state"))
    for labels, _, state in rows:
        for each in STATES:
            family.add_metric((*labels, each), int(each == state))
    yield family


def _state(files: SweepFiles) -> str:
    try:
        return files.state()
    except StoreError:
        return _DAMAGED


def _is_shown(files: SweepFiles, state: str) -> bool:
    if state == _DAMAGED:
        return False
    if state == "running":
        return True
    updated = files.progress().get("updated") or files.created
    try:
        return datetime.now(UTC) - datetime.fromisoformat(updated) < _KEPT
    except (TypeError, ValueError):
        return False  # written by another version, or damaged


def _counts(files: SweepFiles, state: str) -> Counts:
    """Return a sweep's counts, from its progress file if this version has written one, else from the store."""
    counts = Counts.of(files.progress())
    if counts.to_compute == 0:
        return Counts(computed=files.stored_trials(), to_compute=files.planned().trials)
    if state == "running":
        return counts
    # A process that was killed has not written its final counts.
    return Counts.of(counts.__dict__ | {"computed": files.stored_trials(), "shards_in_flight": 0})
