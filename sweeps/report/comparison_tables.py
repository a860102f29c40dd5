"""Sentences and tables that compare sweeps."""

from __future__ import annotations

from sweeps.planning.model_kinds import MODEL_KINDS
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
    """Return one sentence per sweep that compares it with the first."""
    figures = [KeyMetrics.of(results) for results in comparison.sweeps]
    sentences = []
    if len({results.files.config().metric_name for results in comparison.sweeps}) > 1:
        sentences.append("The sweeps have different metrics; they are compared by the final training loss.")
    for letter, now in zip(comparison.letters[1:], figures[1:], strict=True):
        was = figures[0]
        if now.best is None or was.best is None:
            lone = letter if now.best is None else "A"
            loss = f"{lone} has no trial with a loss"
        else:
            loss = f"The best {heading(now.metric)} of {letter} is {number(now.best)}, {_against(now.best, was.best)}"
        share = percent(was.stable, was.stored)
        sentences.append(f"{loss}; {percent(now.stable, now.stored)} of its trials are stable (A: {share}).")
    return sentences


def comparison_findings(comparison: Comparison) -> list[str]:
    """Report sweeps in which identical trials have different final losses."""
    findings = []
    for letter, pair in comparison.others:
        differing = pair.common.differing.total
        if pair.by != "trial" or not differing:
            continue
        findings.append(
            f"{differing:,} of {pair.common.trials:,} trials that A and {letter} have in common differ in final loss, "
            f"although the trials are identical: {_why_apart(pair)}"
        )
    return findings


def comparison_tables(comparison: Comparison, n: int = 10) -> list[Table]:
    """Return all tables of the comparison that have rows."""
    metric = heading(comparison.sweeps[0].metric)
    found = [
        Table("sweeps", "Sweeps", "stable trials neither diverged nor are diverging", compared_sweeps(comparison)),
        Table(
            "best",
            "Best trials",
            f"one per sweep, by {metric}",
            best_settings(comparison),
        ),
        Table("settings", "Settings that differ", "", different_settings(comparison)),
        Table("common", "Trials in common with A", "", common_trials(comparison)),
    ]
    for letter, pair in comparison.others:
        common = pair.common
        between = f"A and {letter}"
        if common.trials:
            note = f"rows: verdict in A; columns: verdict in {letter}; {pair.why}"
            found.append(Table(f"transitions-{letter}", f"Verdicts in {between}", note, transitions(pair)))
        note = f"newly diverging trials first{_of(n, common.changed)}"
        found.append(
            Table(f"changes-{letter}", f"Trials with different verdicts in {between}", note, verdict_changes(pair, n))
        )
        if pair.by == "trial":
            note = f"largest relative difference first{_of(n, common.differing)}"
            title = f"Trials with different final losses in {between}"
            found.append(Table(f"losses-{letter}", title, note, loss_differences(pair, n)))
    return [table for table in found if len(table.frame)]


def _against(now: float, was: float) -> str:
    if now == was:
        return "equal to A's"
    way = "lower" if now < was else "higher"
    if was <= 0:
        return f"{way} than A's {number(was)}"
    change = abs(now - was) / was
    return f"{number(100 * change, 3)} % {way} than A's {number(was)}" if change < 10 else f"A's is {number(was)}"


def _why_apart(pair: Pair) -> str:
    """Explain why identical trials differ: the kernel, device or versions that differ between the sweeps."""
    before = {**pair.first.manifest.get("versions", {}), **_maker(pair.first)}
    after = {**pair.second.manifest.get("versions", {}), **_maker(pair.second)}
    apart = [f"{name} ({was} and {after.get(name)})" for name, was in before.items() if was != after.get(name)]
    if apart:
        return f"the sweeps differ in {', '.join(apart)}"
    if not MODEL_KINDS[pair.first.config.task.model.kind].is_linear:
        return "the last bits of a network's results depend on the trials trained together with it"
    return (
        "kernel, device and versions are equal, so the processors differ, on which the last bits of a loss depend, "
        "or some computation is not deterministic"
    )


def _maker(results: Results) -> dict[str, object]:
    return {name: results.metadata[name] for name in _MADE_BY}


def _of(n: int, ranking: TopK) -> str:
    return f"; the first {n:,} of {ranking.total:,}" if ranking.total > n else ""
