"""Cross-validation: settings ranked by the mean of the metric over the folds, and those that tie with the best."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from sgdcore.verdict import VERDICTS
from sweeps.arrow_columns import PRUNED
from sweeps.config.schema import CLIPPING, HYPERPARAMETERS, REPEATS, SweepConfig
from sweeps.store.store import SweepFiles

if TYPE_CHECKING:
    import pandas as pd

LEVEL = 0.05  # significance level of the tests
_SETTLED = tuple(verdict for verdict in VERDICTS if verdict not in ("diverging", "diverged"))
_MEASURES = ["folds", "mean", "standard_error", "p", "tied", "epochs_to_tolerance", "trial"]


def best_setting(files: SweepFiles, config: SweepConfig) -> tuple[int, float] | None:
    """Return the first trial of the setting with the lowest mean over folds, and the mean; None without one."""
    means = fold_means(files, config) if config.task.dataset.folds else ()
    return (int(means["trial"].iloc[0]), float(means["mean"].iloc[0])) if len(means) else None  # type: ignore[call-overload]


def fold_means(files: SweepFiles, config: SweepConfig) -> pd.DataFrame:
    """Return :func:`repeat_means` of a sweep with folds; empty without folds.

    Raises:
        StoreError: a shard is damaged.
    """
    import pandas as pd

    return repeat_means(files, config) if config.task.dataset.folds else pd.DataFrame()


def repeat_means(files: SweepFiles, config: SweepConfig) -> pd.DataFrame:
    """Return one row per setting that settled with every seed and fold, the lowest mean first.

    The columns are the parameters that differ between settings; ``folds``, the number of trials of the setting, one for
    each seed and fold; the ``mean`` of the metric over them and its ``standard_error``; ``p``, the p-value of the
    paired one-sided t-test that the setting is worse than the best, pair by pair of fold and seed, without correction
    for multiple comparisons; ``tied``, whether p is at least 0.05; ``epochs_to_tolerance``, the mean if every trial of
    the setting converged, else NaN; and the number of its first ``trial``.

    Raises:
        StoreError: a shard is damaged.
    """
    import pandas as pd

    done = sorted(files.shards.done())
    if not done:
        return pd.DataFrame()
    swept = dict.fromkeys(name for stage in files.planned().stages for name in stage.swept)
    settings = [*HYPERPARAMETERS, *config.options, *(name for name in swept if name.startswith("init."))]
    axes = [name for name in settings if name in swept and name not in REPEATS]
    repeats = [name for name in REPEATS if name == "seed" or config.task.dataset.folds]
    prunes = config.early_terminate is not None
    columns = ["trial", "verdict", "steps_to_tolerance", config.metric_name, *axes, *repeats, *([PRUNED] * prunes)]
    parts = []
    for index, table in zip(done, files.shards.read_many(done, columns), strict=True):
        part = table.replace_schema_metadata().to_pandas()
        if prunes:
            part = part[~part[PRUNED]].drop(columns=PRUNED)
        part["epochs"] = part["steps_to_tolerance"] * config.training.epochs / files.shards.metadata(index)["steps"][-1]
        parts.append(part)
    trials = pd.concat(parts, ignore_index=True)
    trials = trials.fillna(dict.fromkeys((name for name in CLIPPING if name in axes), np.inf))
    return _ranked(trials, axes, config.metric_name)


def _ranked(trials: pd.DataFrame, axes: list[str], metric: str) -> pd.DataFrame:
    import pandas as pd
    from scipy import stats

    number = trials.groupby(axes or np.zeros(len(trials)), dropna=False, sort=False).ngroup()
    repeats = [name for name in REPEATS if name in trials]
    repeat = trials.groupby(repeats, sort=True).ngroup()
    values = np.full((int(number.max()) + 1, int(repeat.max()) + 1), np.nan)
    settled = trials["verdict"].isin(_SETTLED).to_numpy()
    values[number, repeat] = np.where(settled, trials[metric].to_numpy(dtype=np.float64, na_value=np.nan), np.nan)
    whole = np.flatnonzero(np.isfinite(values).all(axis=1))
    if not len(whole):
        return pd.DataFrame(columns=[*axes, *_MEASURES])
    values = values[whole]
    order = np.argsort(values.mean(axis=1), kind="stable")
    values, whole = values[order], whole[order]
    first = trials.groupby(number.to_numpy(), sort=True).first()
    frame = first.loc[whole, axes].reset_index(drop=True)
    runs = values.shape[1]
    frame["folds"] = runs
    frame["mean"] = values.mean(axis=1)
    frame["standard_error"] = values.std(axis=1, ddof=1) / np.sqrt(runs)
    apart = values - values[0]
    with np.errstate(divide="ignore", invalid="ignore"):
        t = apart.mean(axis=1) / (apart.std(axis=1, ddof=1) / np.sqrt(runs))
    p = stats.t.sf(t, runs - 1)
    frame["p"] = np.where(np.isnan(p), 0.5, p)  # NaN: no difference in any pair
    frame["tied"] = frame["p"] >= LEVEL
    epochs = np.full((int(number.max()) + 1, int(repeat.max()) + 1), np.nan)
    epochs[number, repeat] = np.where(trials["verdict"] == "converged", trials["epochs"].to_numpy(np.float64), np.nan)
    frame["epochs_to_tolerance"] = epochs[whole].mean(axis=1)
    frame["trial"] = first.loc[whole, "trial"].to_numpy()
    return frame
