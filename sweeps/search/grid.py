"""Grid search: the product of each mapping's axes; a list of mappings is their union."""

from __future__ import annotations

import numpy as np

from sweeps.config.schema import HYPERPARAMETERS, SweepConfig
from sweeps.search.product import Block, FloatArray

_TORCH_DEFAULTS = {"lr": 1e-3, "momentum": 0.0, "weight_decay": 0.0, "dampening": 0.0, "nesterov": 0.0}
UNSET = float("nan")  # a start value that the model's own initialisation gives


def blocks(config: SweepConfig, starts: tuple[str, ...]) -> list[Block]:
    """One block a mapping: seed, the start values and the five hyperparameters, whether swept or not.

    Axes run in the order in which the file names them; those that it does not name stand first, with torch's default.
    """
    result = []
    for mapping in config.mappings():
        named = {name: axis.points() + 0.0 for name, axis in mapping.items()}  # no negative zeros
        spread = _spread(named, starts)
        implied = {name: np.array([_TORCH_DEFAULTS[name]]) for name in HYPERPARAMETERS if name not in named}
        implied |= {f"init.{p}": np.array([UNSET]) for p in starts if f"init.{p}" not in spread}
        seeds = {"seed": np.array(config.seeds, dtype=np.float64)}
        result.append(Block(tuple((seeds | implied | spread).items())))
    return result


def meant(name: str, starts: tuple[str, ...]) -> list[str]:
    """The parameters that init.NAME stands for: init.weight.0 for one, init.weight for all of several weights."""
    given = name.removeprefix("init.")
    return [p for p in starts if p == given or p.startswith(f"{given}.")]


def _spread(named: dict[str, FloatArray], starts: tuple[str, ...]) -> dict[str, FloatArray]:
    """Every init.* axis by the parameters that it stands for; one that names a single parameter goes before."""
    groups = {name: meant(name, starts) for name in named if name.startswith("init.")}
    spread = {f"init.{p}": named[name] for name, group in groups.items() if len(group) > 1 for p in group}
    single = {name: values for name, values in named.items() if name not in groups or len(groups[name]) == 1}
    return {name: values for name, values in spread.items() if name not in single} | single
