"""The rungs of early termination, and the decision which trials go on; both follow from the config and the results."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sweeps.config.early_termination import EarlyTermination
from sweeps.search.base import FloatArray, Mask
from sweeps.search.philox_points import PhiloxPoints


def rungs(rule: EarlyTermination, epochs: int) -> list[int]:
    """Return the epochs of all rungs, ascending; the last is the end of training."""
    found, share = [epochs], float(epochs)
    while round(share := share / rule.eta) >= rule.min_epochs and round(share) < found[0]:
        found.insert(0, round(share))
    return found


def first_rungs(rule: EarlyTermination, rungs: int, settings: int, seed: int) -> NDArray[np.int64]:
    """Return the (N,) rungs at which settings can first be stopped: their brackets.

    Hyperband (Li et al., 2018, "Hyperband: a novel bandit-based approach to hyperparameter optimization", Journal of
    Machine Learning Research 18, 1-52) gives every bracket about the same number of epochs. The bracket that stops no
    trial early is left out. Settings are assigned at random, by the seed and their number.
    """
    if rule.type != "hyperband" or rungs < 3:
        return np.zeros(settings, dtype=np.int64)
    last = rungs - 1
    halvings = np.arange(last, 0, -1)  # of the brackets that begin at rung 0, 1, ...
    shares = (last + 1) / (halvings + 1) * rule.eta**halvings
    bounds = np.cumsum(shares / shares.sum())[:-1]
    return np.searchsorted(bounds, PhiloxPoints(seed).column("bracket", 0, settings), side="right").astype(np.int64)


def most_trials(rule: EarlyTermination, rungs: int, settings: int, seed: int) -> list[int]:
    """Return the most settings that are trained to each rung."""
    first = first_rungs(rule, rungs, settings, seed)
    left, found = np.bincount(first, minlength=rungs), []
    for rung in range(rungs):
        found.append(int(left.sum()))
        ratio = 2.0 if rule.type == "median" else rule.eta
        halved = -(-left // 2) if rule.type == "median" else np.maximum((left / ratio + 1e-9).astype(int), left > 0)
        left = np.where(np.arange(rungs) <= rung, halved, left)
    return found


def going_on(rule: EarlyTermination, rung: int, metric: FloatArray, first: NDArray[np.int64]) -> Mask:
    """Return which of the N settings that reached a rung go on to the next.

    Args:
        rule: the rule.
        rung: the index of the rung.
        metric: (N,) the metric there, the lowest is best; NaN for settings that overflowed, which stop.
        first: (N,) the rung at which each setting can first be stopped.
    """
    finite = ~np.isnan(metric)
    if rule.type == "median":
        return finite & (metric <= np.median(metric[finite])) if finite.any() else finite
    keep = finite & (first > rung)
    for bracket in np.unique(first[first <= rung]).tolist():
        members = np.flatnonzero(first == bracket)
        members = members[np.argsort(metric[members], kind="stable")]  # NaN comes last
        most = max(1, int(len(members) / rule.eta + 1e-9))
        keep[members[:most]] = finite[members[:most]]
    return keep
