"""compare(): sweeps held against the first of them, as comparison_tables: best loss, stable share, what became of each trial."""

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
    """Sweeps, and the trials that each of them has in common with the first."""

    sweeps: tuple[Results, ...]
    pairs: tuple[Pair, ...]  # the first sweep with each other one

    @property
    def letters(self) -> tuple[str, ...]:
        """What comparison_tables call the sweeps: A, B, ..."""
        return tuple(ascii_uppercase[: len(self.sweeps)])

    @property
    def names(self) -> tuple[str, ...]:
        """What figures call them: the letter and the start of the id."""
        ids = (results.files.sweep_id[:8] for results in self.sweeps)
        return tuple(f"{letter} ({sweep_id})" for letter, sweep_id in zip(self.letters, ids, strict=True))

    @property
    def others(self) -> list[tuple[str, Pair]]:
        """The letter of each sweep but the first, and its pair."""
        return list(zip(self.letters[1:], self.pairs, strict=True))


def compare(files: Sequence[SweepFiles]) -> Comparison:
    """Hold sweeps against the first of them. Memory and time are those of sweeps.results.trial_matching, for each pair.

    Raises:
        InputError: fewer than two, or more than MAX_SWEEPS.
        StoreError: a file of a sweep is damaged.
    """
    if not 2 <= len(files) <= MAX_SWEEPS:
        raise InputError(f"{len(files)} given; 2 to {MAX_SWEEPS} sweeps can be compared")
    first, *others = (load_results(each) for each in files)
    return Comparison((first, *others), tuple(match(first, other) for other in others))


def compared_sweeps(comparison: Comparison) -> pd.DataFrame:
    """A row a sweep: which it is, its stored trials, the share of stable ones, and trials by verdict."""
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
    """A row a sweep: its best trial with the parameters that any of the sweeps varies; none of a sweep without one."""
    columns = ["trial", *_varied(comparison.sweeps), "verdict", "final_loss", "best_loss", "steps_to_tolerance"]
    rows = [results.shown(results.aggregate.best, 1).reindex(columns=columns) for results in comparison.sweeps]
    found = [row.assign(sweep=letter) for letter, row in zip(comparison.letters, rows, strict=True) if len(row)]
    frame = pd.concat(found, ignore_index=True) if found else pd.DataFrame(columns=["sweep", *columns])
    return frame[["sweep", *columns]]


def different_settings(comparison: Comparison) -> pd.DataFrame:
    """Data, model, training and fixed parameters in which the sweeps differ; a column a sweep."""
    columns = [
        settings(results).set_index("setting")["value"].rename(letter)
        for letter, results in zip(comparison.letters, comparison.sweeps, strict=True)
    ]
    frame = pd.concat(columns, axis=1, sort=False)
    apart = frame.fillna("").nunique(axis=1) > 1
    return frame[apart].rename_axis("setting").reset_index()


def common_trials(comparison: Comparison) -> pd.DataFrame:
    """A row a sweep but the first: its trials in common with the first, their verdicts and final losses.

    ``broken`` are those that converged in the first sweep and diverge in this one.
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
    """Common trials by their verdict in the first sweep, a row each, and in the second, a column each; with sums."""
    counts = pd.DataFrame(pair.common.transitions, columns=list(VERDICTS))
    return counts.assign(trials=counts.sum(axis=1)).assign(verdict=list(VERDICTS))[["verdict", *VERDICTS, "trials"]]


def verdict_changes(pair: Pair, n: int = 10) -> pd.DataFrame:
    """The first n common trials with another verdict: those that break first, then those whose loss changed most."""
    return _rows(pair.common.changed, n, _varied([pair.first, pair.second]))


def loss_differences(pair: Pair, n: int = 10) -> pd.DataFrame:
    """The n common trials whose final losses differ most, relatively."""
    return _rows(pair.common.differing, n, _varied([pair.first, pair.second]))


def _rows(leading: TopK, n: int, varied: Sequence[str]) -> pd.DataFrame:
    frame: pd.DataFrame = leading.table.slice(0, n).to_pandas()
    shown = [name for name in varied if name in frame]
    ends = ["trial_before", "trial", *shown, "verdict_before", "verdict", "final_loss_before", "final_loss"]
    return frame[ends]


def _varied(sweeps: Sequence[Results]) -> list[str]:
    """The parameters that one of the sweeps varies, in the order of a table's columns."""
    varied = {name for results in sweeps for name in results.swept}
    order = list(dict.fromkeys(name for results in sweeps for name in results.values))
    return [name for name in order if name in varied]
