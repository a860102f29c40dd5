"""The comparison page: figures and tables of several sweeps in one HTML file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from sweeps.errors import StoreError
from sweeps.report.comparison_tables import comparison_findings, comparison_sentences, comparison_tables
from sweeps.report.html import Head, Section, rendered, strip
from sweeps.results.aggregate import SAMPLED
from sweeps.results.comparison import Comparison
from sweeps.results.provenance import created
from sweeps.results.stability_map import MAX_CELLS
from sweeps.store.backends import written_aside


def write_comparison(comparison: Comparison, path: Path) -> None:
    """Write the page atomically.

    Raises:
        StoreError: the file cannot be written.
    """
    text = comparison_html(comparison)
    try:
        with written_aside(path) as file:
            file.write(text)
    except OSError as error:
        raise StoreError(f"{path}: cannot write the comparison: {error.strerror}") from error


def comparison_html(comparison: Comparison) -> str:
    """Return the page as HTML."""
    ids = [results.files.sweep_id for results in comparison.sweeps]
    names = list(dict.fromkeys(results.config.name for results in comparison.sweeps))
    name = names[0] if len(names) == 1 else " vs ".join(names)
    labels = [
        f"{letter}: {results.config.name}, sweep {results.files.sweep_id}, {created(results)}"
        for letter, results in zip(comparison.letters, comparison.sweeps, strict=True)
    ]
    return rendered(
        comparison_sections(comparison),
        comparison_tables(comparison),
        Head(
            title=f"{name} · sweeps {', '.join(sweep_id[:8] for sweep_id in ids)}",
            over=f"Sweeps {', '.join(ids)}",
            name=name,
            description="",
            lead=comparison_sentences(comparison),
            notices=[*_partial(comparison), *(f"Finding: {finding}." for finding in comparison_findings(comparison))],
            strips=[strip(results, label) for results, label in zip(comparison.sweeps, labels, strict=True)],
            foot=f"Made by: sweeps compare {' '.join(ids)}",
        ),
    )


def comparison_sections(comparison: Comparison) -> Iterator[Section]:
    """Yield the sections of the page in order."""
    from sweeps.report import figures

    has = any(results.stored for results in comparison.sweeps)
    yield Section("sweeps", "The sweeps", tables=["sweeps", "best", "settings"])
    shares = figures.compared_shares(comparison) if has else None
    yield Section("shares", "Outcomes", "The share of trials by verdict.", shares, tables=["common"])
    map_note = "Each cell shows the outcome of its best trial. All maps share one colour scale."
    yield Section("maps", "Where they are stable", map_note, figures.compared_maps(comparison))
    for letter, pair in comparison.others:
        changed = figures.changed_map(pair, ("A", letter), most=MAX_CELLS // (4 * len(comparison.pairs)))
        note = f"Each cell compares the best trials of both sweeps. {_capital(pair.why)}."
        keys = [f"transitions-{letter}"]
        folded = [f"changes-{letter}", f"losses-{letter}"]
        yield Section(f"changed-{letter}", f"Changes from A to {letter}", note, changed, keys, folded)
    curve_note = (
        "Solid: the loss of each sweep's best settled trial. Dotted: the median of all settled trials; the band holds "
        f"half of them. The median and band use a uniform sample of up to {SAMPLED} trials per verdict."
    )
    yield Section("curves", "Loss curves", curve_note, figures.compared_curves(comparison))


def _partial(comparison: Comparison) -> list[str]:
    return [
        f"Partial: {results.stored:,} of {results.planned:,} trials of {letter} are stored."
        for letter, results in zip(comparison.letters, comparison.sweeps, strict=True)
        if results.stored < results.planned
    ]


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
