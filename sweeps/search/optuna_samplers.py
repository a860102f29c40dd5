"""Suggestions by Optuna's samplers, from results alone: no study is kept between rounds."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING

from sweeps.config.axis import Axis
from sweeps.search.base import FloatArray
from sweeps.search.rounds import Observations

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.samplers import BaseSampler


def suggest(
    sampler: BaseSampler, axes: Mapping[str, Axis], seen: Observations, values: FloatArray, settings: int
) -> dict[str, FloatArray]:
    """Return the levels of the next settings.

    Args:
        sampler: the sampler, new and seeded.
        axes: the axes by name.
        seen: the results of all earlier settings.
        values: (N,) their objective, the lowest is best.
        settings: the number of settings to suggest. The sampler knows those already suggested as running trials.
    """
    import numpy as np
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    distributions = {name: _distribution(axis) for name, axis in axes.items()}
    columns = {name: _given(axis, seen.levels[name]) for name, axis in axes.items()}
    rows = zip(*columns.values(), strict=True)
    trials = [
        optuna.create_trial(params=dict(zip(columns, row, strict=True)), distributions=distributions, value=value)
        for row, value in zip(rows, values.tolist(), strict=True)
    ]
    study = optuna.create_study(sampler=sampler)
    study.add_trials(trials)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        asked = [study.ask(distributions).params for _ in range(settings)]
    return {name: _levels(axis, np.array([row[name] for row in asked])) for name, axis in axes.items()}


def is_ordered(axis: Axis) -> bool:
    """Return whether an axis is a range, or lists increasing numbers."""
    import numpy as np

    points = axis.points()
    return not axis.is_listed or bool(np.isfinite(points).all() and (np.diff(points) > 0).all() and len(points) > 2)


def _distribution(axis: Axis) -> BaseDistribution:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if not axis.is_listed:
        return FloatDistribution(0.0, 1.0)
    last = len(axis.points()) - 1
    return IntDistribution(0, last) if is_ordered(axis) else CategoricalDistribution(range(last + 1))


def _given(axis: Axis, levels: FloatArray) -> list[float] | list[int]:
    """Return levels as values of the axis's distribution in Optuna."""
    if not axis.is_listed:
        return levels.tolist()  # type: ignore[no-any-return]
    return (levels * len(axis.points())).astype(int).tolist()  # type: ignore[no-any-return]


def _levels(axis: Axis, values: FloatArray) -> FloatArray:
    return (values + 0.5) / len(axis.points()) if axis.is_listed else values
