"""Seed variance: how much a setting's outcome varies with the seed, and which settings tie with the best."""

from __future__ import annotations

import numpy as np
import pandas as pd

from sweeps.results.cross_validation import LEVEL
from sweeps.results.results import Results
from sweeps.text.formatting import meaning


def seed_spread(results: Results, n: int | None = None) -> pd.DataFrame:
    """Rank settings by the mean over seeds of log10 of the final loss, best first; empty without several seeds.

    Only settings that settled with every seed are included. ``mean_loss`` is the geometric mean; ``low`` and ``high``
    bound its 95 % confidence interval (Student's t on log10 loss). ``p`` is the p-value of Welch's one-sided t-test
    (B. L. Welch, 1947) that the setting is worse than the best, without correction for multiple comparisons. Settings
    with p of at least 0.05 are ``tied``: not significantly worse than the best. Losses that can be negative are taken
    without the logarithm, and ``mean_loss`` is their mean.
    """
    cells = results.aggregate.settings
    if cells is None:
        return pd.DataFrame()
    from scipy import stats

    every = (cells.measured == cells.trials) & (cells.measured > 1)
    count, mean, squares = cells.measured[every], cells.mean[every], cells.squares[every]
    frame = pd.DataFrame(cells.position[every], columns=[axis.name for axis in cells.axes])
    deviation = np.sqrt(squares / (count - 1))
    reach = stats.t.ppf(1 - LEVEL / 2, count - 1) * deviation / np.sqrt(count)
    for name in frame:
        frame[name] = [meaning(value, name) for value in frame[name]]
    frame["seeds"] = count
    with np.errstate(over="ignore"):  # intervals can exceed the range of floats
        for name, ends in (("mean_loss", mean), ("low", mean - reach), ("high", mean + reach)):
            frame[name] = ends if results.config.task.is_signed else 10**ends
    frame = frame.assign(_mean=mean, _deviation=deviation).sort_values("_mean", kind="stable", ignore_index=True)
    if not len(frame):
        return pd.DataFrame()
    sample = [frame[name].to_numpy(dtype=np.float64) for name in ("_mean", "_deviation", "seeds")]
    best = [values[0] for values in sample]
    test = stats.ttest_ind_from_stats(*sample, *best, equal_var=False, alternative="greater")
    frame["p"] = np.nan_to_num(test.pvalue, nan=0.5)  # nan: equal means without any variance
    frame["tied"] = frame["p"] >= LEVEL
    return frame.drop(columns=["_mean", "_deviation"]).head(len(frame) if n is None else n)
