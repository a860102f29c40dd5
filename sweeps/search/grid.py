"""Grid search: the product of the axes of each mapping, or the union of several products."""

from __future__ import annotations

import numpy as np

from sweeps.config.schema import HYPERPARAMETERS
from sweeps.search.base import FloatArray, History, SearchSpace, Stage, start_parameters
from sweeps.search.product import Product

_TORCH_DEFAULTS = {"lr": 1e-3, "momentum": 0.0, "weight_decay": 0.0, "dampening": 0.0, "nesterov": 0.0}
UNSET = float("nan")  # a start value that the model's own initialisation draws


class GridSearch:
    """A search method that runs all combinations of the values in the sweep file, in one stage."""

    is_adaptive = False

    def next_stage(self, space: SearchSpace, history: History) -> Stage | None:
        """Return the products of all mappings as the only stage."""
        return None if len(history) else Stage(tuple(products(space)))


METHOD = GridSearch()


def products(space: SearchSpace) -> list[Product]:
    """Return one product per mapping: the seed, the fold, the start values, the five hyperparameters and the options.

    Axes keep their order in the file. Parameters without an axis come first, with torch's defaults.
    """
    result = []
    for mapping in space.mappings:
        named = {name: axis.points() + 0.0 for name, axis in mapping.items()}  # no negative zeros
        spread = _spread(named, space.starts)
        implied = {name: np.array([_TORCH_DEFAULTS[name]]) for name in HYPERPARAMETERS if name not in named}
        implied |= {name: np.array([value]) for name, value in space.options.items() if name not in named}
        implied |= {f"init.{p}": np.array([UNSET]) for p in space.starts if f"init.{p}" not in spread}
        seeds = {"seed": np.array(space.seeds, dtype=np.float64)}
        result.append(Product(tuple((seeds | space.repeats | implied | spread).items())))
    return result


def _spread(named: dict[str, FloatArray], starts: tuple[str, ...]) -> dict[str, FloatArray]:
    """Expand init.* axes to the parameters that they select; an axis for a single parameter takes precedence."""
    groups = {name: start_parameters(name, starts) for name in named if name.startswith("init.")}
    spread = {f"init.{p}": named[name] for name, group in groups.items() if len(group) > 1 for p in group}
    single = {name: values for name, values in named.items() if name not in groups or len(groups[name]) == 1}
    return {name: values for name, values in spread.items() if name not in single} | single
