"""Sobol search: settings at scrambled Sobol points, which cover the search space more evenly than random ones."""

from __future__ import annotations

from sweeps.config.axis import Axis
from sweeps.search.axes import axes_of
from sweeps.search.base import History, SearchSpace, Stage
from sweeps.search.draws import draws, is_listed
from sweeps.search.sobol_points import SobolPoints
from sweeps.search.trial_table import TrialTable


class SobolSearch:
    """A search method that draws ``run_cap`` trials in one stage; trial i depends on the seed and i alone."""

    packages = ()
    is_adaptive = False

    def next_stage(self, space: SearchSpace, history: History) -> Stage | None:
        """Return the trials at the first Sobol points as the only stage."""
        if len(history):
            return None
        drawn = draws(space, SobolPoints(space.search_seed, dimensions(space)), space.run_cap)
        return Stage((TrialTable.of([drawn]) if is_listed(space) else drawn,))


METHOD = SobolSearch()


def dimensions(space: SearchSpace) -> tuple[str, ...]:
    """Return the columns with more than one value, each of which is a dimension of the points."""
    [mapping] = space.mappings
    axes = axes_of(space, mapping).items()
    return tuple(name for name, axis in axes if isinstance(axis, Axis) and axis.distribution_name != "constant")
