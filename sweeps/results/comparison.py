"""Compare sweeps with the first of them: best loss, stable share and the outcomes of common trials."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from string import ascii_uppercase

import pandas as pd

from sgdcore.verdict import VERDICTS
from sweeps.errors import InputError
from sweeps.results.key_metrics import KeyMetrics
from sweeps.results.provenance import created, settings
from sweeps.results.results import Results, load_results
from sweeps.results.top_k import TopK
from sweeps.results.trial_matching import Pair, match
from sweeps.store.store import SweepFiles

MAX_SWEEPS = 12


@dataclass(frozen=True, eq=False)
class Comparison:
    """A set of sweeps and the trials that each has in common with the first."""

    sweeps: tuple[Results, ...]
    pairs: tuple[Pair, ...]  # the first sweep paired with each other sweep

    @property
    def letters(self) -> tuple[str, ...]:
        """The letters that tables use for the sweeps: A, B, ..."""
        return tuple(ascii_uppercase[: len(self.sweeps)])

    @property
    def names(self) -> tuple[str, ...]:
        """The names that figures use for the sweeps: the letter and the first 8 characters of the id."""
        ids = (results.files.sweep_id[:8] for results in self.sweeps)
        return tuple(f"{letter} ({sweep_id})" for letter, sweep_id in zip(self.letters, ids, strict=True))

    @property
    def others(self) -> list[tuple[str, Pair]]:
        """The letter and pair of each sweep except the first."""
        return list(zip(self.letters[1:], self.pairs, strict=True))


def compare(files: Sequence[SweepFiles]) -> Comparison:
    """Compare sweeps with the first of them.

    They are compared by their metric, or by the final training loss if they have different metrics. Each pair takes the
    time and memory described in :mod:`sweeps.results.trial_matching`.

    Raises:
        InputError: fewer than two or more than MAX_SWEEPS sweeps are given, or their losses are not of one kind.
        StoreError: a file of a sweep is damaged.
    """
    if not 2 <= len(files) <= MAX_SWEEPS:
        raise InputError(f"{len(files)} given; compare needs 2 to {MAX_SWEEPS} sweeps")
    return compare_results([load_results(each) for each in files])


def compare_results(loaded: Sequence[Results]) -> Comparison:
    """Compare results that are already loaded; see :func:`compare`.

    Raises:
        InputError: their losses are not of one kind.
        StoreError: a file of a sweep is damaged.
    """
    _check_losses(loaded)
    if len({results.metric for results in loaded}) > 1:
        loaded = [results.ranked_by("final_loss") for results in loaded]
    first, *others = loaded
    return Comparison((first, *others), tuple(match(first, other) for other in others))


def _check_losses(sweeps: Sequence[Results]) -> None:
    """Check that the sweeps have the same loss: values of different losses say nothing about each other."""
    named = [(results.files.sweep_id, results.config.task.loss_text) for results in sweeps]
    for sweep_id, loss in named[1:]:
        if loss != named[0][1]:
            raise InputError(
                f"sweep {sweep_id}: its loss is {loss}, that of {named[0][0]} is {named[0][1]}: "
                "different losses cannot be compared; compare sweeps of one task.loss"
            )


def compared_sweeps(comparison: Comparison) -> pd.DataFrame:
    """Return one row per sweep: its identity, stored trials, stable share and trials by verdict."""
    rows = []
    for letter, results in zip(comparison.letters, comparison.sweeps, strict=True):
        figures = KeyMetrics.of(results)
        rows.append(
            {
                "sweep": letter,
                "id": results.files.sweep_id,
                "name": results.config.name,
                "created": created(results),
                "trials": figures.stored,
                "stable_share": figures.stable_share,
                **figures.verdicts,
            }
        )
    return pd.DataFrame(rows)


def best_settings(comparison: Comparison) -> pd.DataFrame:
    """Return the best trial of each sweep, with the parameters that any of the sweeps varies.

    A sweep without a best trial has no row.
    """
    losses = dict.fromkeys(name for results in comparison.sweeps for name in results.losses)
    columns = ["trial", *_varied(comparison.sweeps), "verdict", *losses, "steps_to_tolerance"]
    rows = [results.shown(results.aggregate.best, 1).reindex(columns=columns) for results in comparison.sweeps]
    found = [row.assign(sweep=letter) for letter, row in zip(comparison.letters, rows, strict=True) if len(row)]
    frame = pd.concat(found, ignore_index=True) if found else pd.DataFrame(columns=["sweep", *columns])
    return frame[["sweep", *columns]]


def different_settings(comparison: Comparison) -> pd.DataFrame:
    """Return the data, model, training and fixed parameters in which the sweeps differ, one column per sweep."""
    columns = [
        settings(results).set_index("setting")["value"].rename(letter)
        for letter, results in zip(comparison.letters, comparison.sweeps, strict=True)
    ]
    frame = pd.concat(columns, axis=1, sort=False)
    apart = frame.fillna("").nunique(axis=1) > 1
    return frame[apart].rename_axis("setting").reset_index()


def common_trials(comparison: Comparison) -> pd.DataFrame:
    """Return one row per sweep except the first, comparing verdicts and final losses of its common trials.

    ``broken`` counts trials that converged in the first sweep and diverged, or are diverging, in this one.
    """
    rows = []
    for letter, pair in comparison.others:
        common = pair.common
        rows.append(
            {
                "sweep": letter,
                "matched_by": pair.by,
                "common": common.trials,
                "only_first": pair.first.stored - common.trials,
                "only_this": pair.second.stored - common.trials,
                "other_verdict": common.changed.total,
                "broken": common.broken,
                "lower_loss": common.lower,
                "equal_loss": common.equal,
                "higher_loss": common.higher,
            }
        )
    return pd.DataFrame(rows)


def transitions(pair: Pair) -> pd.DataFrame:
    """Count common trials by verdict in the first sweep (rows) and in the second (columns), with row sums."""
    counts = pd.DataFrame(pair.common.transitions, columns=list(VERDICTS))
    return counts.assign(trials=counts.sum(axis=1)).assign(verdict=list(VERDICTS))[["verdict", *VERDICTS, "trials"]]


def verdict_changes(pair: Pair, n: int = 10) -> pd.DataFrame:
    """Return the first n common trials whose verdict changed: broken ones first, then by change of loss."""
    return _rows(pair.common.changed, n, _varied([pair.first, pair.second]))


def loss_differences(pair: Pair, n: int = 10) -> pd.DataFrame:
    """Return the n common trials with the largest relative difference in final loss."""
    return _rows(pair.common.differing, n, _varied([pair.first, pair.second]))


def _rows(leading: TopK, n: int, varied: Sequence[str]) -> pd.DataFrame:
    frame: pd.DataFrame = leading.table.slice(0, n).to_pandas()
    shown = [name for name in varied if name in frame]
    ends = ["trial_before", "trial", *shown, "verdict_before", "verdict", "final_loss_before", "final_loss"]
    return frame[ends]


def _varied(sweeps: Sequence[Results]) -> list[str]:
    """Return the parameters that any of the sweeps varies, in column order."""
    varied = {name for results in sweeps for name in results.swept}
    order = list(dict.fromkeys(name for results in sweeps for name in results.values))
    return [name for name in order if name in varied]
