"""The report: a sweep's stored results as pandas tables, figures, and files to read and to send."""

from sweeps.report.axes import MapAxis
from sweeps.report.cells import Cells
from sweeps.report.expected import ExpectedOutcome, check, sentence, sentences
from sweeps.report.results import Results, load
from sweeps.report.summary import (
    Table,
    best_trials,
    diverged_trials,
    dropped_and_merged,
    expected_table,
    finding,
    headline,
    overshoots,
    settings,
    tables,
    verdict_counts,
)
from sweeps.report.tally import Tally
from sweeps.report.write import FORMATS, render, write, write_csv

__all__ = [
    "FORMATS",
    "Cells",
    "ExpectedOutcome",
    "MapAxis",
    "Results",
    "Table",
    "Tally",
    "best_trials",
    "check",
    "diverged_trials",
    "dropped_and_merged",
    "expected_table",
    "finding",
    "headline",
    "load",
    "overshoots",
    "render",
    "sentence",
    "sentences",
    "settings",
    "tables",
    "verdict_counts",
    "write",
    "write_csv",
]
