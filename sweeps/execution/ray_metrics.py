"""Metrics of a sweep on a Ray cluster: each node serves them to Prometheus, with ``ray_`` before their names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ray.util.metrics import Counter, Gauge

if TYPE_CHECKING:
    from sweeps.execution.progress import Counts

_LABELS = ("sweep_id", "sweep")


class Meter:
    """Tells Ray how far a sweep is. Ray forgets the sweep with the process that runs it, so labels do not pile up.

    Counters count what this process has seen, as Prometheus expects: a resumed sweep begins at 0 again.
    """

    def __init__(self, sweep_id: str, name: str) -> None:
        """Ray is started."""
        labels = {"sweep_id": sweep_id, "sweep": name}
        self._counters = {
            "computed": Counter("sweeps_trials_computed", "Trials computed and stored.", _LABELS),
            "logged": Counter("sweeps_trials_logged", "Trials logged to MLflow.", _LABELS),
            "failed": Counter("sweeps_trials_failed", "Trials that could not be run.", _LABELS),
        }
        self._gauges = {
            "to_compute": Gauge("sweeps_trials_planned", "Trials of the sweep.", _LABELS),
            "shards_in_flight": Gauge("sweeps_shards_in_flight", "Shards submitted and not finished.", _LABELS),
            "lag": Gauge("sweeps_tracking_lag_trials", "Trials computed that are not in MLflow yet.", _LABELS),
        }
        for metric in (*self._counters.values(), *self._gauges.values()):
            metric.set_default_tags(labels)
        self._before: Counts | None = None

    def __call__(self, counts: Counts) -> None:
        """Tell Ray."""
        for name, counter in self._counters.items():
            # The first look is where the sweep starts from: what earlier turns have done is not this process's.
            more = getattr(counts, name) - getattr(self._before, name) if self._before else 0
            if more > 0:
                counter.inc(more)
        for name, gauge in self._gauges.items():  # also what is as it was: Ray forgets a gauge that nobody sets
            gauge.set(getattr(counts, name))
        self._before = counts
