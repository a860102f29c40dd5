"""Metrics of a sweep on a Ray cluster, which nodes export to Prometheus with the prefix ``ray_``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ray.util.metrics import Counter, Gauge

if TYPE_CHECKING:
    from sweeps.execution.progress import Counts

_LABELS = ("sweep_id", "sweep")


class Meter:
    """The Ray metrics of one sweep. Ray drops them with this process, so labels do not accumulate.

    Counters count the work of this process, as Prometheus expects: they start at 0 again in a resumed sweep.
    """

    def __init__(self, sweep_id: str, name: str) -> None:
        """Create the metrics. Ray must have been started."""
        labels = {"sweep_id": sweep_id, "sweep": name}
        self._counters = {
            "computed": Counter("sweeps_trials_computed", "Trials computed and stored.", _LABELS),
            "logged": Counter("sweeps_trials_logged", "Trials logged to MLflow.", _LABELS),
            "failed": Counter("sweeps_trials_failed", "Trials that could not be run.", _LABELS),
        }
        self._gauges = {
            "to_compute": Gauge("sweeps_trials_planned", "Trials of the sweep.", _LABELS),
            "shards_in_flight": Gauge("sweeps_shards_in_flight", "Shards submitted and not finished.", _LABELS),
            "trial_steps": Gauge("sweeps_trial_steps", "Steps done, summed over trials.", _LABELS),
            "trial_steps_planned": Gauge("sweeps_trial_steps_planned", "Steps of the sweep.", _LABELS),
            "lag": Gauge("sweeps_tracking_lag_trials", "Computed trials that are not in MLflow yet.", _LABELS),
        }
        for metric in (*self._counters.values(), *self._gauges.values()):
            metric.set_default_tags(labels)
        self._before: Counts | None = None

    def __call__(self, counts: Counts) -> None:
        """Update the metrics."""
        for name, counter in self._counters.items():
            # The first counts include the work of earlier processes.
            more = getattr(counts, name) - getattr(self._before, name) if self._before else 0
            if more > 0:
                counter.inc(more)
        for name, gauge in self._gauges.items():  # even if unchanged, because Ray drops gauges that are not set
            gauge.set(getattr(counts, name))
        self._before = counts
