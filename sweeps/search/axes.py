"""The axes of a search space: those of the sweep file, and one value for every column that has none there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from sweeps.config.axis import Axis
from sweeps.config.schema import HYPERPARAMETERS
from sweeps.search.base import SearchSpace, start_parameters

_TORCH_DEFAULTS = {"lr": 1e-3, "momentum": 0.0, "weight_decay": 0.0, "dampening": 0.0, "nesterov": 0.0}
UNSET = float("nan")  # a start value that the model's own initialisation draws

_T = TypeVar("_T")


def axes_of(space: SearchSpace, mapping: Mapping[str, Axis]) -> dict[str, Axis | float]:
    """Return the axis, or the only value, of each column of a mapping except the seed and the fold.

    Axes keep their order in the file. Parameters without an axis come first, with torch's defaults.
    """
    spread = _spread(mapping, space.starts)
    implied: dict[str, Axis | float] = {name: _TORCH_DEFAULTS[name] for name in HYPERPARAMETERS if name not in mapping}
    implied |= {name: value for name, value in space.options.items() if name not in mapping}
    implied |= {f"init.{p}": UNSET for p in space.starts if f"init.{p}" not in spread}
    return implied | spread


def _spread(named: Mapping[str, _T], starts: tuple[str, ...]) -> dict[str, _T]:
    """Expand init.* axes to the parameters that they select; an axis for a single parameter takes precedence."""
    groups = {name: start_parameters(name, starts) for name in named if name.startswith("init.")}
    spread = {f"init.{p}": named[name] for name, group in groups.items() if len(group) > 1 for p in group}
    single = {name: values for name, values in named.items() if name not in groups or len(groups[name]) == 1}
    return {name: values for name, values in spread.items() if name not in single} | single
