"""Commands that compare sweeps with each other: compare, check."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sweeps.cli.app import app
from sweeps.cli.options import DEFAULT_STORE, JsonOption, StoreOption, SweepId, find
from sweeps.errors import CheckFailed, ConfigError, InputError

if TYPE_CHECKING:
    from sweeps.store.store import SweepFiles
    from sweeps.verification.regression import Check, Limits

_NO_LIMIT = "none"


@app.command()
def compare(
    sweep_ids: Annotated[
        list[str], typer.Argument(metavar="ID ID [ID ...]", help="Ids of two or more sweeps, or unique prefixes.")
    ],
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Write a self-contained HTML page.")
    ] = None,
    store: StoreOption = DEFAULT_STORE,
    as_json: JsonOption = False,
) -> None:
    """Compare sweeps with the first one: loss, stability, verdicts."""
    from sweeps.cli.terminal import say, show_json, show_table
    from sweeps.report.comparison_page import write_comparison
    from sweeps.report.comparison_tables import comparison_findings, comparison_sentences, comparison_tables
    from sweeps.results.comparison import compare as compare_sweeps
    from sweeps.store.store import Store

    home = Store(store)
    comparison = compare_sweeps([home.find(sweep_id) for sweep_id in sweep_ids])
    tables, findings = comparison_tables(comparison), comparison_findings(comparison)
    if html is not None:
        write_comparison(comparison, html)
    if as_json:
        records = {table.key: table.frame.to_dict(orient="records") for table in tables}
        show_json({"sentences": comparison_sentences(comparison), "findings": findings, "tables": records})
        return
    for line in comparison_sentences(comparison):
        say(line)
    for finding in findings:
        say(f"finding: {finding}")
    for table in tables:
        say()
        say(f"{table.title}{f': {table.note}' if table.note else ''}")
        show_table(table.frame)
    if html is not None:
        say()
        say(f"page:     {html}")


@app.command()
def check(
    sweep_id: SweepId,
    baseline: Annotated[
        str,
        typer.Option(
            "--baseline",
            metavar="ID|latest",
            help="Compare with this sweep; latest: the last complete one of the same name.",
        ),
    ] = "latest",
    max_loss_increase: Annotated[
        str, typer.Option(metavar="P%|X|none", help="Allow the best loss to rise by a percentage or an absolute value.")
    ] = "1%",
    max_stable_share_drop: Annotated[
        str, typer.Option(metavar="SHARE|none", help="Allow the share of stable trials to drop by this much.")
    ] = "0.01",
    min_stable_share: Annotated[
        str, typer.Option(metavar="SHARE|none", help="Require this share of stable trials.")
    ] = _NO_LIMIT,
    no_new_divergence: Annotated[
        bool, typer.Option("--no-new-divergence", help="Fail if a trial that converged in the baseline diverges.")
    ] = False,
    allow_incomplete: Annotated[bool, typer.Option("--allow-incomplete", help="Accept missing trials.")] = False,
    junit: Annotated[Path | None, typer.Option("--junit", metavar="FILE", help="Write JUnit XML.")] = None,
    store: StoreOption = DEFAULT_STORE,
    as_json: JsonOption = False,
) -> None:
    """Check a sweep against a baseline and limits; exit 4 on failure."""
    from sweeps.cli.terminal import show_json
    from sweeps.verification import regression as checking

    limits = _limits(
        {
            "max_loss_increase": _limit(max_loss_increase),
            "max_stable_share_drop": _number(max_stable_share_drop),
            "min_stable_share": _number(min_stable_share),
            "no_new_divergence": no_new_divergence,
            "allow_incomplete": allow_incomplete,
        }
    )
    _, files = find(store, sweep_id)
    reference = checking.baseline_of(files, baseline)
    checks = checking.check(files, reference, limits)
    if junit is not None:
        _write(junit, checking.junit(files, checks))
    if as_json:
        show_json(
            {
                "sweep_id": files.sweep_id,
                "baseline": reference.sweep_id if reference else None,
                "passed": all(entry.passed for entry in checks),
                "checks": [asdict(entry) for entry in checks],
            }
        )
    else:
        _say(files, reference, checks)
    if failed := [entry.name for entry in checks if not entry.passed]:
        raise CheckFailed(f"sweep {files.sweep_id}: {', '.join(failed)}")


def _say(files: SweepFiles, baseline: SweepFiles | None, checks: list[Check]) -> None:
    from sweeps.cli.terminal import say

    against = f"sweep {baseline.sweep_id}" if baseline else "no baseline: no earlier complete sweep has its name"
    say(f"{files.manifest()['name']} {files.sweep_id}, compared with {against}")
    for entry in checks:
        say(f"{'skipped' if entry.skipped else 'passed' if entry.passed else 'failed'}: {entry.name}: {entry.message}")


def _limits(document: dict[str, Any]) -> Limits:
    from sweeps.verification.regression import Limits

    try:
        return Limits.of(document)
    except ConfigError as error:  # a key is an option here
        problems = (problem.partition(":") for problem in error.problems)
        lines = [f"--{key.replace('_', '-')}:{rest}" for key, _, rest in problems]
        raise InputError("\n".join(lines)) from error


def _limit(given: str) -> str | None:
    return None if given == _NO_LIMIT else given


def _number(given: str) -> Any:
    """Return a share as a number; leave other text to Limits, which rejects it and names the option."""
    try:
        return float(given)
    except ValueError:
        return _limit(given)


def _write(path: Path, text: str) -> None:
    from sweeps.store.backends import written_aside

    try:
        with written_aside(path) as file:
            file.write(text)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror}") from error
