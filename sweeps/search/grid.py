"""Grid search: the product of the axes of each mapping, or the union of several products."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from sweeps.config.axis import Axis
from sweeps.search.axes import axes_of
from sweeps.search.base import FloatArray, History, SearchSpace, Stage
from sweeps.search.product import Product


class GridSearch:
    """A search method that runs all combinations of the values in the sweep file, in one stage."""

    packages = ()
    is_adaptive = False

    def next_stage(self, space: SearchSpace, history: History) -> Stage | None:
        """Return the products of all mappings as the only stage."""
        return None if len(history) else Stage(tuple(products(space)))


METHOD = GridSearch()


def products(space: SearchSpace) -> list[Product]:
    """Return the product of each mapping."""
    return [product(space, mapping) for mapping in space.mappings]


def product(space: SearchSpace, mapping: Mapping[str, Axis]) -> Product:
    """Return the product of a mapping: the seed, the fold, the start values, the five hyperparameters, the options."""
    axes = {name: _values(axis) for name, axis in axes_of(space, mapping).items()}
    seeds = {"seed": np.array(space.seeds, dtype=np.float64)}
    return Product(tuple((seeds | space.repeats | axes).items()))


def _values(axis: Axis | float) -> FloatArray:
    return (axis.points() if isinstance(axis, Axis) else np.array([axis])) + 0.0  # no negative zeros
