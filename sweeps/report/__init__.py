"""The report: a sweep's stored results as pandas tables, figures, and files to read and to send."""

from sweeps.report.files import FORMATS, render, write, write_csv
from sweeps.report.tables import (
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
from sweeps.results.aggregate import Tally
from sweeps.results.binning import MapAxis
from sweeps.results.heatmap import Cells
from sweeps.results.results import Results, load
from sweeps.verification.expected import ExpectedOutcome, check, sentence, sentences

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
