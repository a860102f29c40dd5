"""Normalisation of trials: drop combinations that torch.optim.SGD rejects, merge equal trials, and count both."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from sweeps.config.schema import SweepConfig
from sweeps.errors import ConfigError
from sweeps.search.base import FloatArray, Mask
from sweeps.search.draws import Draws
from sweeps.search.product import Product, TooManyOverlaps, disjoint
from sweeps.search.trial_table import TrialTable

NEEDS_MOMENTUM = "nesterov needs a momentum"
NEEDS_ZERO_DAMPENING = "nesterov needs zero dampening"
NO_DAMPENING = "dampening has no effect without momentum"
NO_SEED = "the seed has no effect: sequential order and given start values"
SAME_VALUE = "a repeated value on an axis"
SAME_TRIAL = "the same trial in more than one mapping"
REPEATED = "the same trial more than once"
_MAX_PIECES = 2_000  # products that overlapping mappings are split into
_MAX_COMPARISONS = 20_000  # pairs of overlapping mappings, which take a few seconds


def normalize(block: Product, config: SweepConfig, dropped: dict[str, int], merged: dict[str, int]) -> list[Product]:
    """Split a product into products of distinct trials that torch.optim.SGD accepts, and count the others."""
    if config.training.order == "sequential" and not _drawn(block, config) and len(block["seed"]) >= 1:
        single = block.replace("seed", np.zeros(1))
        _count(merged, NO_SEED, len(block) - len(single))
        block = single
    unique = Product(tuple((name, distinct(values)) for name, values in block.axes))
    _count(merged, SAME_VALUE, len(block) - len(unique))
    ahead, plain = unique.split("nesterov", _nonzero)
    ahead, without = ahead.split("momentum", _nonzero)
    _count(dropped, NEEDS_MOMENTUM, len(without))
    damped, ahead = ahead.split("dampening", _nonzero)
    _count(dropped, NEEDS_ZERO_DAMPENING, len(damped))
    ahead = _with_momentum_in_groups(ahead, dropped)
    heavy, still = plain.split("momentum", _nonzero)
    mixed = _group_axes(still.names, "momentum")  # a group can have a momentum of its own
    undamped = still if mixed else still.replace("dampening", np.zeros(1))
    _count(merged, NO_DAMPENING, len(still) - len(undamped) if len(still) else 0)
    return [part for part in (undamped, heavy, ahead) if len(part)]


def normalize_draws(draws: Draws, config: SweepConfig, merged: dict[str, int]) -> Draws:
    """Return draws with one seed where it has no effect, and count the others; the draws themselves are valid."""
    starts = [draws[name] for name in draws.names if name.startswith("init.")]
    if config.training.order == "shuffled" or _draws(starts, config):
        return draws
    single = draws.replace("seed", np.zeros(1))
    _count(merged, NO_SEED, len(draws) - len(single))
    return single


def _with_momentum_in_groups(ahead: Product, dropped: dict[str, int]) -> Product:
    """Return the part of a product with nesterov in which torch accepts the hyperparameters of every group."""
    for name in _group_axes(ahead.names, "momentum"):
        ahead, without = ahead.split(name, _nonzero)  # NaN, the default group's, is not zero
        _count(dropped, NEEDS_MOMENTUM, len(without))
    for name in _group_axes(ahead.names, "dampening"):
        damped, ahead = ahead.split(name, lambda values: _nonzero(np.nan_to_num(values)))
        _count(dropped, NEEDS_ZERO_DAMPENING, len(damped))
    return ahead


def _group_axes(names: Iterable[str], hyperparameter: str) -> list[str]:
    return [name for name in names if name.startswith(f"{hyperparameter}.")]


def normalize_table(
    table: TrialTable, config: SweepConfig, dropped: dict[str, int], merged: dict[str, int], earlier: set[bytes]
) -> TrialTable:
    """Return the distinct trials of a table that torch.optim.SGD accepts, and count the others.

    Args:
        table: the trials, one row each.
        config: the sweep.
        dropped: counts by reason, updated.
        merged: likewise.
        earlier: keys of the trials that the sweep already has, which are left out; updated.
    """
    starts = [table[name] for name in table.names if name.startswith("init.")]
    if config.training.order == "sequential" and not _draws(starts, config):
        table = table.replace("seed", np.zeros(len(table)))
    momentum, nesterov = table["momentum"] != 0, table["nesterov"] != 0
    _count(dropped, NEEDS_MOMENTUM, int((nesterov & ~momentum).sum()))
    _count(dropped, NEEDS_ZERO_DAMPENING, int((nesterov & momentum & (table["dampening"] != 0)).sum()))
    table = table.take(~nesterov | (momentum & (table["dampening"] == 0)))
    for name in _group_axes(table.names, "momentum"):
        lacking = (table["nesterov"] != 0) & (table[name] == 0)
        _count(dropped, NEEDS_MOMENTUM, int(lacking.sum()))
        table = table.take(~lacking)
    for name in _group_axes(table.names, "dampening"):
        damped = (table["nesterov"] != 0) & (np.nan_to_num(table[name]) != 0)
        _count(dropped, NEEDS_ZERO_DAMPENING, int(damped.sum()))
        table = table.take(~damped)
    if not _group_axes(table.names, "momentum"):
        table = table.replace("dampening", np.where(table["momentum"] != 0, table["dampening"], 0.0))
    new = np.ones(len(table), dtype=np.bool_)
    for row, key in enumerate(table.keys()):
        new[row] = key not in earlier
        earlier.add(key)
    _count(merged, REPEATED, int((~new).sum()))
    return table.take(new)


def _count(counts: dict[str, int], reason: str, number: int) -> None:
    counts[reason] = counts.get(reason, 0) + number


def _drawn(block: Product, config: SweepConfig) -> bool:
    """Return whether a start value is drawn by torch's initialisation, which depends on the seed."""
    return _draws([values for name, values in block.axes if name.startswith("init.")], config)


def _draws(starts: list[FloatArray], config: SweepConfig) -> bool:
    unset = not starts or any(np.isnan(values).any() for values in starts)
    return unset and config.task.model.init == "torch"


def _nonzero(values: FloatArray) -> Mask:
    return np.not_equal(values, 0)


def distinct(values: FloatArray) -> FloatArray:
    """Return the distinct values in the order of their first occurrence."""
    if (values[1:] > values[:-1]).all():
        return values
    return values[np.sort(np.unique(values, return_index=True)[1])]


def without_repeats(blocks: list[Product], merged: dict[str, int], where: str) -> list[Product]:
    """Return products that contain every trial once, and count repeated trials.

    Raises:
        ConfigError: the mappings overlap too much.
    """
    kept: list[Product] = []
    try:
        for block, pieces in zip(blocks, disjoint(blocks, _MAX_COMPARISONS), strict=True):
            if again := len(block) - sum(map(len, pieces)):
                merged[SAME_TRIAL] = merged.get(SAME_TRIAL, 0) + again
            kept += pieces
            if len(kept) > len(blocks) + _MAX_PIECES:
                problem = f"parameters: the mappings overlap in more than {_MAX_PIECES:,} places; reduce the overlap"
                raise ConfigError(where, [problem])
    except TooManyOverlaps as error:
        problem = "parameters: too many mappings overlap; use fewer mappings, or ranges that do not overlap"
        raise ConfigError(where, [problem]) from error
    return kept
