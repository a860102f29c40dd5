"""Random search: settings drawn from the distributions of the axes."""

from __future__ import annotations

import numpy as np

from sweeps.search.base import History, SearchSpace, Stage, TrialSet
from sweeps.search.draws import draws, is_listed
from sweeps.search.grid import product
from sweeps.search.philox_points import PhiloxPoints, random_words
from sweeps.search.trial_table import TrialTable

_MAX_SHUFFLED = 4_000_000  # settings of a space that are drawn without replacement


class RandomSearch:
    """A search method that draws ``run_cap`` trials in one stage; trial i depends on the seed and i alone.

    From at most four million equally likely settings it draws without replacement: all, if the cap is above their
    number.
    """

    packages = ()
    is_adaptive = False

    def next_stage(self, space: SearchSpace, history: History) -> Stage | None:
        """Return the draws as the only stage."""
        return None if len(history) else Stage((self._drawn(space),))

    def _drawn(self, space: SearchSpace) -> TrialSet:
        drawn = draws(space, PhiloxPoints(space.search_seed), space.run_cap)
        if not is_listed(space):
            return drawn
        [mapping] = space.mappings
        everything = product(space, mapping)
        for name in drawn.repeats.names:
            everything = everything.replace(name, everything[name][:1])
        if len(everything) > _MAX_SHUFFLED or not _equally_likely(space):
            return TrialTable.of([drawn])
        order = np.argsort(random_words(space.search_seed, "settings", 0, len(everything)), kind="stable")
        settings = everything.rows(order[: drawn.settings])
        repeats = drawn.repeats.rows(np.arange(len(drawn.repeats)))
        columns = {name: np.repeat(values, len(drawn.repeats)) for name, values in settings.items()}
        return TrialTable(columns | {name: np.tile(v, len(order[: drawn.settings])) for name, v in repeats.items()})


METHOD = RandomSearch()


def _equally_likely(space: SearchSpace) -> bool:
    """Return whether all settings are equally likely."""
    [mapping] = space.mappings
    listed = (axis.is_listed and axis.probabilities is None for axis in mapping.values())
    whole = (axis.distribution == "int_uniform" for axis in mapping.values())
    return all(a or b for a, b in zip(listed, whole, strict=True))
