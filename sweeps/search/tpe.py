"""Tree-structured Parzen estimators, by Optuna's TPESampler."""

from __future__ import annotations

from collections.abc import Mapping

from sweeps.config.axis import Axis
from sweeps.search.base import FloatArray
from sweeps.search.optuna_samplers import suggest as by_optuna
from sweeps.search.rounds import Observations, RoundsSearch


def suggest(axes: Mapping[str, Axis], seen: Observations, settings: int, seed: int) -> Mapping[str, FloatArray]:
    """Return the levels of the next settings."""
    import warnings

    from optuna.exceptions import ExperimentalWarning
    from optuna.samplers import TPESampler

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        sampler = TPESampler(seed=seed, n_startup_trials=0, multivariate=True, constant_liar=True)
    return by_optuna(sampler, axes, seen, seen.ranks, settings)


METHOD = RoundsSearch(suggest, packages=("optuna",))
