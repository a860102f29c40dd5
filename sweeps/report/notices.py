"""Remarks that the page and the Markdown report share: what is missing, where every number is, what made them."""

from __future__ import annotations

from sweeps.report.headline import finding
from sweeps.results.results import Results

FILES = {"html": "report.html", "md": "report.md", "csv": "trials.csv", "json": "report.json"}
MAX_CSV_TRIALS = 200_000  # about 60 MB


def notices(results: Results) -> list[str]:
    """What a reader must know before the figures: missing trials, failed shards, contradictions of the theory."""
    found = []
    if 0 < results.stored < results.planned:
        found.append(f"Partial: {results.stored:,} of {results.planned:,} trials are stored.")
    if failed := len(results.files.shards.failures()):
        found.append(f"{failed:,} shards could not be run; their tracebacks are in the sweep's failures folder.")
    if (contradiction := finding(results)) is not None:
        found.append(f"Finding: {contradiction}.")
    return found


def has_csv(results: Results) -> bool:
    """Whether the trials are so few that trials.csv holds them."""
    return results.stored <= MAX_CSV_TRIALS


def every_number(results: Results) -> str:
    """Where all trials are."""
    if has_csv(results):
        return f"Every number is in {FILES['csv']} beside this page."
    return (
        f"Every number is in the Parquet files of the sweep's folder shards, too many for a "
        f" {FILES['csv']} ('sweeps report {results.files.sweep_id} --format csv' prints it)."
    )


def made_by(results: Results) -> str:
    """Kernel and versions."""
    versions = results.manifest.get("versions", {})
    made = [f"{name} {version}" for name, version in versions.items()]
    kernel = f"kernel {results.metadata['kernel']}" if results.metadata["kernel"] else "no kernel yet"
    return ", ".join([kernel, *made])
