"""CMA-ES, the covariance matrix adaptation evolution strategy, by the package that Optuna's CmaEsSampler uses."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from sweeps.config.axis import Axis
from sweeps.search.base import FloatArray
from sweeps.search.optuna_samplers import is_ordered
from sweeps.search.philox_points import PhiloxPoints
from sweeps.search.rounds import Observations, RoundsSearch

_SIGMA = 1 / 6  # of the range, as in Optuna


def suggest(axes: Mapping[str, Axis], seen: Observations, settings: int, seed: int) -> Mapping[str, FloatArray]:
    """Return the levels of the next settings: a generation of the strategy, after those of all earlier rounds.

    It starts at the best setting of the first round and of an earlier sweep.

    As in Optuna, values without an order are drawn at random.
    """
    from cmaes import CMA

    ordered = [name for name, axis in axes.items() if is_ordered(axis)]
    levels = {name: PhiloxPoints(seed).column(name, 0, settings) for name in axes if name not in ordered}
    if not ordered:
        return levels
    early = np.flatnonzero(seen.rounds <= 0)
    best = np.array([seen.levels[name][early[np.argmin(seen.ranks[early])]] for name in ordered])
    ends = np.array([[0.0, 1.0]] * len(ordered))
    population = max(int((seen.rounds == 0).sum()), settings)
    strategy = CMA(best, _SIGMA, bounds=ends, seed=seed, population_size=population)
    for index in range(1, int(seen.rounds.max()) + 1):
        of_round = np.flatnonzero(seen.rounds == index)
        of_round = np.resize(of_round, population)  # some count twice where repeated settings were merged
        points = np.column_stack([seen.levels[name][of_round] for name in ordered])
        strategy.tell(list(zip(points, seen.ranks[of_round].tolist(), strict=True)))
    asked = np.array([strategy.ask() for _ in range(settings)])
    return levels | dict(zip(ordered, asked.T, strict=True))


METHOD = RoundsSearch(suggest, packages=("cmaes",))
