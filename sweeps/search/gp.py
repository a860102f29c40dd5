"""Bayesian optimisation with a Gaussian process, by Optuna's GPSampler."""

from __future__ import annotations

from collections.abc import Mapping

from sweeps.config.axis import Axis
from sweeps.search.base import FloatArray
from sweeps.search.optuna_samplers import suggest as by_optuna
from sweeps.search.rounds import Observations, RoundsSearch


def suggest(axes: Mapping[str, Axis], seen: Observations, settings: int, seed: int) -> Mapping[str, FloatArray]:
    """Return the levels of the next settings.

    The process models the normal scores of the ranks: the losses themselves can span a hundred decades.
    """
    import warnings

    from optuna.exceptions import ExperimentalWarning
    from optuna.samplers import GPSampler
    from scipy.special import ndtri

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        sampler = GPSampler(seed=seed, n_startup_trials=0)
    scores: FloatArray = ndtri((seen.ranks + 0.5) / (seen.ranks.max() + 1))
    return by_optuna(sampler, axes, seen, scores, settings)


METHOD = RoundsSearch(suggest, packages=("optuna",))
