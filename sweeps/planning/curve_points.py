"""The default number of recorded points of a curve."""

from __future__ import annotations

from sgdcore import Task
from sweeps.config.schema import RECORDED_POINTS, SweepConfig

_SHARE = 0.25  # of the training's time that curves may take
_PASSES = 3  # a training step takes about as long as three evaluations of its batch


def default_points(config: SweepConfig, task: Task) -> int:
    """Return how many points to record between the first and the last.

    A loss that is a quadratic form of the parameters costs nothing to evaluate. For any other, a point evaluates the
    whole data set, so that networks have as many as take at most a quarter of the training's time.
    """
    if task.is_quadratic:
        return RECORDED_POINTS
    evaluated = task.samples + (len(task.dataset.validation) if task.dataset.validation else 0)
    affordable = int(_SHARE * _PASSES * config.training.epochs * task.samples / evaluated)
    return max(0, min(RECORDED_POINTS, affordable - 2))
