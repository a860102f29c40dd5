"""A summary of a sweep's stages: the number of trials and the best metric of each."""

from __future__ import annotations

from itertools import accumulate

import numpy as np
import pandas as pd

from sweeps.arrow_columns import numbers
from sweeps.results.ranking import Ranking
from sweeps.results.results import Results


def stage_summary(results: Results) -> pd.DataFrame:
    """Return one row per stage; empty for a sweep with a single stage.

    Columns are ``stage`` (from 1), ``trials`` (planned), ``stored``, and ``best``: the lowest metric of the stage's
    stored trials that did not diverge.
    """
    stages, ranking = results.extent.stages, Ranking.of(results.config, results.metadata)
    if len(stages) == 1:
        return pd.DataFrame()
    ends = np.array(list(accumulate(stage.trials for stage in stages)))
    stored, best = np.zeros(len(stages), dtype=np.int64), np.full(len(stages), np.nan)
    for table in results.tables(ranking.columns):
        stage = np.searchsorted(ends, table["trial"].to_numpy(), side="right")
        stored += np.bincount(stage, minlength=len(stages))
        ranked = ranking.ranked(table)
        for index in np.unique(stage[ranked]).tolist():
            best[index] = np.fmin(best[index], numbers(table[ranking.metric])[ranked & (stage == index)].min())
    trials = [stage.trials for stage in stages]
    return pd.DataFrame({"stage": range(1, len(stages) + 1), "trials": trials, "stored": stored, "best": best})
