"""The setting to use: among those that cannot be told from the best, the fastest, with its distance from the edge.

With several seeds or folds, a setting cannot be told from the best if a paired test finds no difference
(sweeps.results.cross_validation). Otherwise it cannot if its metric is within the tolerance of the verdicts: a lower
loss than that depends on when training ends, or on rounding.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from sgdcore.verdict import VERDICTS
from sweeps.arrow_columns import numbers
from sweeps.config.axis import Axis
from sweeps.config.schema import BATCH_SIZE, REPEATS
from sweeps.results.cross_validation import LEVEL, repeat_means
from sweeps.results.ranking import Ranking
from sweeps.results.results import Results
from sweeps.results.stability_edge import breaking_factor
from sweeps.text.formatting import meaning

MARGIN = 1.1  # the least factor to the next lr that diverges that counts as a distance
_MAX_TRIALS = 1_000_000  # of a sweep whose repeats are compared
_MOST = 200  # candidates whose distance from the edge is looked up
_EXTENDED = ("lr", "momentum", "weight_decay")
_DIGITS = 9  # of theory's factors; they are equal over whole regions, up to rounding
_FEW_DECAYS = 20  # distinct weight decays that are compared by the least loss of each
_NEAR_END = 0.01  # of the range of a distribution
SETTLED = [verdict for verdict in VERDICTS if verdict not in ("diverging", "diverged")]


@dataclass(frozen=True)
class Recommendation:
    """A setting to use.

    Args:
        trial: its first trial.
        setting: the swept parameters.
        metric: the column that ranks trials.
        value: its metric, with several seeds or folds the mean.
        interval: the 95 % confidence interval of the mean (Student's t); None without repeats.
        repeats: the number of trials of the setting.
        equals: the number of settings that cannot be told from the best, itself included.
        speed: steps to tolerance, or epochs where trials differ in their steps; NaN if it did not converge.
        growth: the factor by which theory's error changes in an epoch; NaN if unknown.
        is_fastest_by_theory: whether it is the fastest by that factor, which does not depend on the start values, and
            not by its measured speed. Theory decides where every step takes the whole data set.
        margin: the ratio of the next lr that diverges to this lr; None if none that was run diverges.
        safer: the next of the equal settings with a distance from the edge, if this one has none.
        ends: the axes at whose ends the setting is, and which end.
    """

    trial: int
    setting: dict[str, Any]
    metric: str
    value: float
    interval: tuple[float, float] | None
    repeats: int
    equals: int
    speed: float
    growth: float
    is_fastest_by_theory: bool
    margin: float | None
    safer: dict[str, Any] | None
    ends: dict[str, str]

    @property
    def is_close_to_the_edge(self) -> bool:
        """Whether a slightly larger lr diverges."""
        return self.margin is not None and self.margin < MARGIN


def recommendation(results: Results) -> Recommendation | None:
    """Return the setting to use; None if no trial settled or only one setting was trained."""

    def plain() -> dict[str, Any] | None:
        found = _find(results)
        return None if found is None else asdict(found)

    found = results.cached("recommendation", plain)
    return None if found is None else Recommendation(**found)


def _find(results: Results) -> Recommendation | None:
    axes = [name for name in results.swept if name not in REPEATS]
    if not axes or not results.stored:
        return None
    candidates = _candidates(results, axes)
    if candidates is None or not len(candidates):
        return None
    row, trials = candidates.iloc[0], results.rows(candidates["trial"][:_MOST].tolist()).set_index("trial")
    settings = [{name: meaning(float(trials.loc[n, name]), name) for name in axes} for n in candidates["trial"][:_MOST]]
    numbers_and_lr = zip(candidates["trial"], candidates["lr"], settings, strict=False)
    margins = ((breaking_factor(results, int(number), float(lr)), setting) for number, lr, setting in numbers_and_lr)
    margin, setting = next(margins)
    safer = None
    if margin is not None and margin < MARGIN:
        safer = next((other for factor, other in margins if factor is None or factor >= MARGIN), None)
    return Recommendation(
        trial=int(row["trial"]),
        setting=setting,
        metric=results.metric,
        value=float(row["value"]),
        interval=None if row["repeats"] < 2 else (float(row["low"]), float(row["high"])),
        repeats=int(row["repeats"]),
        equals=int(candidates["equals"].iloc[0]),
        speed=float(row["speed"]),
        growth=float(row["growth"]),
        is_fastest_by_theory=bool(row["exact"]),
        margin=margin,
        safer=safer,
        ends=_ends(results, setting),
    )


def trials_like_it(results: Results, slower: float) -> list[int]:
    """Return the first trials of the settings that cannot be told from the best and are about as fast as the fastest.

    Args:
        results: the sweep, which must have a recommendation.
        slower: the most times the fastest setting's training that they take to reach tolerance, by the measure that
            decides which is the fastest. If that did not reach it, all of them count.
    """
    found = _candidates(results, [name for name in results.swept if name not in REPEATS])
    assert found is not None
    with np.errstate(divide="ignore", invalid="ignore"):
        epochs = 1 / -np.log(found["growth"].to_numpy()) if found["exact"].iloc[0] else found["speed"].to_numpy()
    chosen = ~(epochs > slower * epochs[0]) & (np.isnan(epochs[0]) | ~np.isnan(epochs))
    chosen[0] = True
    trials: list[int] = found["trial"][chosen].tolist()
    return trials


def _candidates(results: Results, axes: list[str]) -> pd.DataFrame | None:
    return _over_repeats(results, axes) if _is_repeated(results) else _of_one_run(results)


def _is_repeated(results: Results) -> bool:
    return any(name in results.axes for name in results.repeats) and results.stored <= _MAX_TRIALS


def _of_one_run(results: Results) -> pd.DataFrame | None:
    """Return the settings within tolerance of the best, in the order of preference."""
    best = results.shown(results.aggregate.best_settled)
    if not len(best):
        return None
    verdict, metric = results.config.verdict, results.metric
    least = float(best[metric].iloc[0])
    noise = max(Ranking.of(results.config, results.metadata).noise, verdict.atol or 0.0)
    decays = [name for name in results.axes if name.partition(".")[0] == "weight_decay"]
    decays = decays if all(len(results.values[name]) <= _FEW_DECAYS for name in decays) else []
    dividing = [BATCH_SIZE] if BATCH_SIZE in results.options else []
    columns = ["trial", "lr", "verdict", metric, "initial_loss", "steps_to_tolerance", "predicted_radius", *dividing]
    columns += decays
    parts = []
    for table in results.complete(list(dict.fromkeys(columns))):
        value, initial = numbers(table[metric]), numbers(table["initial_loss"])
        settled = np.isin(table["verdict"].to_pylist(), SETTLED)
        tolerance = verdict.rtol * np.maximum(initial - least, 0) + noise
        near = settled & (value - least <= tolerance)
        parts.append(table.filter(near).to_pandas())
    found = pd.concat(parts, ignore_index=True)
    if decays:  # what trials of one weight decay end at does not depend on how long they train, unlike their last loss
        limit = found.groupby(decays)[metric].transform("min")
        found = found[limit - least <= verdict.rtol**2 * (found["initial_loss"] - least).clip(lower=0) + noise]
        found = found.reset_index(drop=True)
    speed = found["steps_to_tolerance"].to_numpy(np.float64, na_value=np.nan)
    speed = np.where(found["verdict"] == "converged", speed, np.nan)
    if dividing:
        speed /= np.ceil(results.manifest["data"]["samples"] / found[BATCH_SIZE].to_numpy())
    growth = found["predicted_radius"].to_numpy(np.float64, na_value=np.nan)
    full_batch = not dividing and results.metadata["steps"][-1] == results.config.training.epochs
    exact = full_batch and not np.isnan(growth).all()
    order = (np.isnan(speed), np.round(growth, _DIGITS), speed) if exact else (speed, growth)
    frame = pd.DataFrame({"trial": found["trial"], "lr": found["lr"], "value": found[metric], "speed": speed})
    frame = frame.assign(growth=growth, repeats=1, low=np.nan, high=np.nan, equals=len(frame), exact=exact)
    return frame.iloc[np.lexsort((found["trial"], *reversed(order)))].reset_index(drop=True)


def _over_repeats(results: Results, axes: list[str]) -> pd.DataFrame | None:
    """Return the settings that a paired test cannot tell from the best mean, the fastest first."""
    from scipy import stats

    means = repeat_means(results.files, results.config)
    if not len(means):
        return None
    tied = means[means["tied"]]
    runs, mean, error = (tied[name].to_numpy(np.float64) for name in ("folds", "mean", "standard_error"))
    reach = stats.t.ppf(1 - LEVEL / 2, np.maximum(runs - 1, 1)) * error
    first = results.rows(tied["trial"].tolist()).set_index("trial").loc[tied["trial"]]
    frame = pd.DataFrame({"trial": tied["trial"].to_numpy(), "lr": first["lr"].to_numpy(), "value": mean})
    speed = tied["epochs_to_tolerance"].to_numpy(np.float64)
    growth = first["predicted_radius"].to_numpy(np.float64, na_value=np.nan)
    frame = frame.assign(speed=speed, growth=growth, repeats=runs, low=mean - reach, high=mean + reach)
    frame["equals"], frame["exact"] = len(frame), False
    return frame.iloc[np.lexsort((mean, growth, speed))].reset_index(drop=True)


def _ends(results: Results, setting: dict[str, Any]) -> dict[str, str]:
    """Return the axes at whose ends the setting is, other than zero, and which end."""
    found = {}
    for name in _EXTENDED:
        axes = [mapping[name] for mapping in results.config.mappings() if name in mapping]
        if setting.get(name) and len(axes) == 1 and (end := _end(axes[0], float(setting[name]))):
            found[name] = end
    return found


def _end(axis: Axis, value: float) -> str | None:
    """Return the end of an axis of at least three values at which a value is, if any."""
    points = axis.points()
    if len(points) < 3:
        return None
    if not axis.is_listed:
        [level] = axis.levels([value]).tolist()
        return "smallest" if level < _NEAR_END else "largest" if level > 1 - _NEAR_END else None
    return "smallest" if value <= points.min() else "largest" if value >= points.max() else None


def as_record(found: Recommendation) -> dict[str, Any]:
    """Return a recommendation for JSON."""
    low, high = found.interval or (math.nan, math.nan)
    measures = {"value": found.value, "low": low, "high": high, "speed": found.speed, "growth": found.growth}
    known = {name: None if math.isnan(value) else value for name, value in measures.items()}
    return {
        "trial": found.trial,
        "setting": found.setting,
        "metric": found.metric,
        **known,
        "repeats": found.repeats,
        "equals": found.equals,
        "diverges_at_times_lr": found.margin,
        "safer": found.safer,
        "ends": found.ends,
    }
