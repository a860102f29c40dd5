"""Notices shared by the HTML and Markdown reports: missing trials, location of the data, and versions."""

from __future__ import annotations

from sweeps.report.headline import finding
from sweeps.results.results import Results

FILES = {"html": "report.html", "md": "report.md", "csv": "trials.csv", "json": "report.json"}
MAX_CSV_TRIALS = 200_000  # about 60 MB


def notices(results: Results) -> list[str]:
    """Return the notices to show first: missing trials, failed shards and contradictions of the theory."""
    found = []
    if 0 < results.stored < results.planned:
        found.append(f"Partial: {results.stored:,} of {results.planned:,} trials are stored.")
    if failed := len(results.files.shards.failures()):
        found.append(f"Failed shards: {failed:,}. Their tracebacks are in the sweep's failures folder.")
    if (contradiction := finding(results)) is not None:
        found.append(f"Finding: {contradiction}.")
    return found


def has_csv(results: Results) -> bool:
    """Return whether the trials are few enough for trials.csv."""
    return results.stored <= MAX_CSV_TRIALS


def every_number(results: Results) -> str:
    """Return a sentence that says where the data of all trials are."""
    if has_csv(results):
        return f"All numbers are in {FILES['csv']} next to this page."
    return (
        f"All numbers are in the Parquet files of the sweep's shards folder. There are too many for {FILES['csv']}; "
        f"to print them, run 'sweeps report {results.files.sweep_id} --format csv'."
    )


def made_by(results: Results) -> str:
    """Return the kernel and versions that produced the results."""
    versions = results.manifest.get("versions", {})
    made = [f"{name} {version}" for name, version in versions.items()]
    kernel = f"kernel {results.metadata['kernel']}" if results.metadata["kernel"] else "no kernel yet"
    return ", ".join([kernel, *made])
