"""compare(): sweeps held against the first of them, as tables: best loss, stable share, what became of each trial."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from string import ascii_uppercase

import pandas as pd

from sgdcore.verdict import VERDICTS
from sweeps.errors import InputError
from sweeps.report.notices import created
from sweeps.report.tables import Table, settings
from sweeps.results.key_metrics import KeyFigures
from sweeps.results.results import Results, load
from sweeps.results.top_k import Leading
from sweeps.results.trial_matching import Pair, match
from sweeps.store.store import SweepFiles
from sweeps.text.formatting import heading, number, percent

MAX_SWEEPS = 12
_EXACT_MODELS = ("linear", "polynomial")  # whose trials have the same bits beside any other trials
_MADE_BY = ("kernel", "device")


@dataclass(frozen=True, eq=False)
class Comparison:
    """Sweeps, and the trials that each of them has in common with the first."""

    sweeps: tuple[Results, ...]
    pairs: tuple[Pair, ...]  # the first sweep with each other one

    @property
    def letters(self) -> tuple[str, ...]:
        """What tables call the sweeps: A, B, ..."""
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
    first, *others = (load(each) for each in files)
    return Comparison((first, *others), tuple(match(first, other) for other in others))


def compared_sweeps(comparison: Comparison) -> pd.DataFrame:
    """A row a sweep: which it is, its stored trials, the share of stable ones, and trials by verdict."""
    rows = []
    for letter, results in zip(comparison.letters, comparison.sweeps, strict=True):
        figures = KeyFigures.of(results)
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
    rows = [results.shown(results.tally.best, 1).reindex(columns=columns) for results in comparison.sweeps]
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


def sentences(comparison: Comparison) -> list[str]:
    """Each sweep against the first, in words."""
    figures = [KeyFigures.of(results) for results in comparison.sweeps]
    told = []
    for letter, now in zip(comparison.letters[1:], figures[1:], strict=True):
        was = figures[0]
        if now.best is None or was.best is None:
            lone = letter if now.best is None else "A"
            loss = f"{lone} has no trial with a loss"
        else:
            loss = f"The best {heading(now.metric)} of {letter} is {number(now.best)}, {_against(now.best, was.best)}"
        stable = f"{percent(now.stable, now.stored)} of its trials are stable, {percent(was.stable, was.stored)} of A's"
        told.append(f"{loss}; {stable}.")
    return told


def findings(comparison: Comparison) -> list[str]:
    """The same trials that did not come out the same."""
    told = []
    for letter, pair in comparison.others:
        differing = pair.common.differing.total
        if pair.by != "trial" or not differing:
            continue
        told.append(
            f"{differing:,} of {pair.common.trials:,} trials that A and {letter} have in common end with another final "
            f"loss, though they are the same trials: {_why_apart(pair)}"
        )
    return told


def tables(comparison: Comparison, n: int = 10) -> list[Table]:
    """All tables that have something to say."""
    found = [
        Table(
            "sweeps", "Sweeps", "stable are trials that neither diverged nor are diverging", compared_sweeps(comparison)
        ),
        Table("best", "Best trials", "of each sweep, by its own metric", best_settings(comparison)),
        Table("settings", "Settings that differ", "", different_settings(comparison)),
        Table("common", "Trials in common with A", "", common_trials(comparison)),
    ]
    for letter, pair in comparison.others:
        common = pair.common
        between = f"A and {letter}"
        if common.trials:
            note = f"rows: in A; columns: in {letter}; {pair.why}"
            found.append(Table(f"transitions-{letter}", f"Verdicts in {between}", note, transitions(pair)))
        note = f"those that break first{_of(n, common.changed)}"
        found.append(
            Table(f"changes-{letter}", f"Trials with another verdict in {between}", note, verdict_changes(pair, n))
        )
        if pair.by == "trial":
            note = f"the largest relative difference first{_of(n, common.differing)}"
            title = f"Trials with another final loss in {between}"
            found.append(Table(f"losses-{letter}", title, note, loss_differences(pair, n)))
    return [table for table in found if len(table.frame)]


def _rows(leading: Leading, n: int, varied: Sequence[str]) -> pd.DataFrame:
    frame: pd.DataFrame = leading.table.slice(0, n).to_pandas()
    shown = [name for name in varied if name in frame]
    ends = ["trial_before", "trial", *shown, "verdict_before", "verdict", "final_loss_before", "final_loss"]
    return frame[ends]


def _varied(sweeps: Sequence[Results]) -> list[str]:
    """The parameters that one of the sweeps varies, in the order of a table's columns."""
    varied = {name for results in sweeps for name in results.swept}
    order = list(dict.fromkeys(name for results in sweeps for name in results.values))
    return [name for name in order if name in varied]


def _against(now: float, was: float) -> str:
    if now == was:
        return "as A's"
    way = "lower" if now < was else "higher"
    if was <= 0:
        return f"{way} than A's {number(was)}"
    change = abs(now - was) / was
    return f"{number(100 * change, 3)} % {way} than A's {number(was)}" if change < 10 else f"A's is {number(was)}"


def _why_apart(pair: Pair) -> str:
    """What made the two, as far as it differs."""
    made = [{**pair.first.manifest.get("versions", {}), **_maker(pair.first)}]
    made.append({**pair.second.manifest.get("versions", {}), **_maker(pair.second)})
    apart = [
        f"{name} {made[0].get(name)} and {made[1].get(name)}" for name in made[0] if made[0][name] != made[1].get(name)
    ]
    if apart:
        return f"they were made by {', '.join(apart)}"
    if pair.first.config.task.model.kind not in _EXACT_MODELS:
        return "a network's last bits depend on the trials that are trained beside it"
    return "kernel, device and versions are the same, so something is not deterministic"


def _maker(results: Results) -> dict[str, object]:
    return {name: results.metadata[name] for name in _MADE_BY}


def _of(n: int, ranking: Leading) -> str:
    return f"; the first {n:,} of {ranking.total:,}" if ranking.total > n else ""
