"""Grid search: the product of each mapping's axes; a list of mappings is their union."""

from __future__ import annotations

from sweeps.config import HYPERPARAMETERS, SweepConfig
from sweeps.search.block import Block

_TORCH_DEFAULTS = {"lr": 1e-3, "momentum": 0.0, "weight_decay": 0.0, "dampening": 0.0, "nesterov": 0.0}
UNSET = float("nan")  # a start value that the model's own initialisation gives


def blocks(config: SweepConfig, parameter_names: tuple[str, ...]) -> list[Block]:
    """One block a mapping: seed, the start values and the five hyperparameters, whether swept or not.

    Axes run in the order in which the file names them; those that it does not name stand first, with torch's default.
    """
    result = []
    for mapping in config.mappings():
        named = {name: tuple(float(v) + 0.0 for v in axis.points()) for name, axis in mapping.items()}
        spread = _spread(named, parameter_names)
        implied = {name: (_TORCH_DEFAULTS[name],) for name in HYPERPARAMETERS if name not in named}
        implied |= {f"init.{p}": (UNSET,) for p in parameter_names if f"init.{p}" not in spread}
        seeds = {"seed": tuple(float(seed) for seed in config.seeds)}
        result.append(Block(tuple((seeds | implied | spread).items())))
    return result


def _spread(named: dict[str, tuple[float, ...]], parameter_names: tuple[str, ...]) -> dict[str, tuple[float, ...]]:
    """init.weight of a model with several weights stands for all of them, where one value is given."""
    weights = [p for p in parameter_names if p.startswith("weight.")]
    if "init.weight" not in named or not weights:
        return named
    spread = {name: values for name, values in named.items() if name != "init.weight"}
    return {f"init.{p}": named["init.weight"] for p in weights if f"init.{p}" not in named} | spread
