"""A comparison of sweeps in words and tables."""

from __future__ import annotations

from sweeps.plan.model_kinds import MODEL_KINDS
from sweeps.report.tables import Table
from sweeps.results.comparison import (
    Comparison,
    best_settings,
    common_trials,
    compared_sweeps,
    different_settings,
    loss_differences,
    transitions,
    verdict_changes,
)
from sweeps.results.key_metrics import KeyMetrics
from sweeps.results.results import Results
from sweeps.results.top_k import TopK
from sweeps.results.trial_matching import Pair
from sweeps.text.formatting import heading, number, percent

_MADE_BY = ("kernel", "device")


def comparison_sentences(comparison: Comparison) -> list[str]:
    """Each sweep against the first, in words."""
    figures = [KeyMetrics.of(results) for results in comparison.sweeps]
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


def comparison_findings(comparison: Comparison) -> list[str]:
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


def comparison_tables(comparison: Comparison, n: int = 10) -> list[Table]:
    """All comparison_tables that have something to say."""
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
    if not MODEL_KINDS[pair.first.config.task.model.kind].is_linear:
        return "a network's last bits depend on the trials that are trained beside it"
    return "kernel, device and versions are the same, so something is not deterministic"


def _maker(results: Results) -> dict[str, object]:
    return {name: results.metadata[name] for name in _MADE_BY}


def _of(n: int, ranking: TopK) -> str:
    return f"; the first {n:,} of {ranking.total:,}" if ranking.total > n else ""
