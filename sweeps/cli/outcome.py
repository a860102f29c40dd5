"""The end of a command: report how a sweep went, choose the exit code and name the command that continues it."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from sweeps.cli.options import DEFAULT_STORE
from sweeps.cli.supervisor import tell
from sweeps.errors import CheckFailed, ClusterLost, NotLogged, StoreError, SweepsError, TrialsFailed

if TYPE_CHECKING:
    from sweeps.pipeline.outcome import SweepOutcome
    from sweeps.results.expected_outcome import ExpectedOutcome
    from sweeps.store.store import Store, SweepFiles


def conclude(outcome: SweepOutcome, store: Store, where: str, tracker: Any) -> None:
    """Write the report, close the parent run and print the outcome.

    Raises:
        TrialsFailed: some trials could not be run.
        NotLogged: some trials are not in MLflow.
        CheckFailed: an expected trial does not match.
    """
    from sweeps.pipeline.outcome import Interrupted

    try:
        _finish(outcome, store, where, tracker)
    except KeyboardInterrupt:
        tracker.interrupt()
        raise Interrupted(outcome) from None


@contextmanager
def ending_with_json(files: SweepFiles) -> Iterator[None]:
    """Print the sweep's outcome as JSON after the block, however it ends."""
    from sweeps.cli.terminal import show_json

    try:
        yield
    finally:
        planned, written = files.planned(), files.report.is_written()
        show_json(
            {
                "sweep_id": files.sweep_id,
                "name": files.manifest()["name"],
                "state": files.state(),
                "trials": planned.trials,
                "stored trials": files.stored_trials(),
                "failed shards": len(files.shards.failures()),
                "report": files.report.location("report.html") if written else None,
                "logged to": files.tracking_record.places(),
            }
        )


def conclude_whole(outcome: SweepOutcome, tracker: Any) -> None:
    """Print the outcome of a sweep that is complete. Raises the same errors as :func:`conclude`."""
    from sweeps.cli.terminal import say
    from sweeps.store.store import Store
    from sweeps.verification.expected import check_expected

    files = outcome.files
    show_results(outcome)
    assert outcome.results is not None
    if outcome.prepared.config.expected:
        outcome.expected = check_expected(outcome.prepared, outcome.results)
    _say_expected(outcome.expected)
    say(f"sweep:    {files.sweep_id}")
    say(f"report:   {files.report.location('report.html')}")
    say_tracking(outcome, Store.of(files), tracker)
    _raise_for(outcome)


def _finish(outcome: SweepOutcome, store: Store, where: str, tracker: Any) -> None:
    from sweeps.cli.terminal import say, working
    from sweeps.pipeline.publish import publish

    if not outcome.report:
        with working("writing the report"):
            write_report(outcome)
    if outcome.tracking_error is None:
        with working("logging the report and the best model to MLflow"):
            publish(outcome, tracker)
    _say_expected(outcome.expected)
    for earlier, trials in outcome.reused.most_common():
        say(f"reused {trials:,} of {len(outcome.prepared.plan):,} trials of sweep {earlier}")
    for reason, trials in outcome.unstored.most_common(3):
        say(f"stored by this process: {trials:,} trials that workers could not store ({reason})")
    say(f"sweep:    {outcome.files.sweep_id} ({where})")
    say(f"report:   {outcome.report}")
    say_tracking(outcome, store, tracker)
    _raise_for(outcome)


def show_results(outcome: SweepOutcome) -> None:
    """Load the results of the computed trials and print them."""
    from sweeps.cli.terminal import say, show_table
    from sweeps.report.headline import advice, finding, headline, pruning_sentence
    from sweeps.report.trial_tables import verdict_counts
    from sweeps.results.results import load_results

    loaded = outcome.results = load_results(outcome.files)
    say(headline(loaded))
    show_table(verdict_counts(loaded))
    if (stopped := pruning_sentence(loaded)) is not None:
        say(stopped)
    if (use := advice(loaded)) is not None:
        say(use)
    if (contradiction := finding(loaded)) is not None:
        say(f"finding: {contradiction}")
    say()


def _say_expected(expected: list[ExpectedOutcome] | None) -> None:
    """Print the comparison with the expected trials."""
    from sweeps.cli.terminal import say, show_table
    from sweeps.report.expected_results import expected_sentences, expected_table

    if expected:
        show_table(expected_table(expected))
        for line in expected_sentences(expected):
            say(line)
        say()


def write_report(outcome: SweepOutcome) -> None:
    """Compare the results with the expected trials and write the report."""
    from sweeps.report.files import write_report
    from sweeps.results.results import load_results
    from sweeps.verification.expected import check_expected

    loaded = outcome.results = outcome.results or load_results(outcome.files)
    if outcome.prepared.config.expected and outcome.files.shards.done():
        outcome.expected = check_expected(outcome.prepared, loaded)
    outcome.report = write_report(loaded, expected=outcome.expected)


def write_report_early(outcome: SweepOutcome) -> None:
    """Write the report while trials are still being logged; after an error, :func:`conclude` tries again."""
    with suppress(Exception):
        write_report(outcome)


def say_tracking(outcome: SweepOutcome, store: Store, tracker: Any) -> None:
    """Print where the sweep is logged, and by which writer."""
    from sweeps.cli.terminal import say

    embedded = "  ('sweeps ui' shows it)" if not store.is_shared and tracker.uri == store.tracking_uri else ""
    say(f"tracking: {tracker.uri}{embedded}")
    for notice in tracker.notices:
        say(f"          {notice}")
    if outcome.tracking.get("deleted"):
        say(f"          {outcome.tracking['deleted']}")
    if outcome.tracking.get("writer"):
        say(f"writer:   {outcome.tracking['writer']} ({outcome.tracking['writer_reason']})")


def _raise_for(outcome: SweepOutcome) -> None:
    again = again_with(outcome.files, "resume")
    missing = unlogged(outcome, again) if outcome.tracking_error is not None else None
    if outcome.failed_trials:
        first = outcome.files.shards.failures()[0]
        failed = f"{outcome.failed_trials:,} trials could not be run: {first.reason}; see {first}; retry with: {again}"
        raise TrialsFailed("\n".join(filter(None, [failed, missing])))
    if missing is not None:
        raise NotLogged(f"all trials are computed and reported, but {missing}")
    missed = [e.case for e in outcome.expected or [] if not e.matches]
    if missed:
        raise CheckFailed(f"not as expected: {', '.join(missed)}")


def unlogged(outcome: SweepOutcome, again: str) -> str:
    """Return what is missing from MLflow after a tracking error, with the command that logs it."""
    from sweeps.text.redact import one_line

    assert outcome.tracking_error is not None
    missing = f"{outcome.unlogged_trials:,} trials are" if outcome.unlogged_trials else "the sweep's own run is"
    return f"{missing} not in MLflow yet: {one_line(outcome.tracking_error)}; log what is missing with: {again}"


def interrupted(interrupt: KeyboardInterrupt) -> str:
    """Return the message after Ctrl-C: what is kept, and the command that resumes the sweep."""
    outcome = getattr(interrupt, "outcome", None)
    if outcome is None:
        return "; ".join(filter(None, ["interrupted", str(interrupt)]))
    return f"interrupted: {_kept(outcome.files)}"


@contextmanager
def keeping(files: SweepFiles) -> Iterator[None]:
    """If the block raises ClusterLost, add to its message what is kept and the command that resumes the sweep."""
    tell(again_with(files, "resume"))
    try:
        yield
    except ClusterLost as error:
        raise ClusterLost(f"{error}; {_kept(files)}") from error


def _kept(files: SweepFiles) -> str:
    again = again_with(files, "resume")
    try:
        done, total = len(files.shards.done()), files.planned().shards
    except SweepsError as error:
        return f"{error}; continue with: {again}"
    return f"{done:,} of {total:,} shards are in the store; continue with: {again}"


def again_with(files: SweepFiles, command: str) -> str:
    """Return the command line that applies ``command`` to the sweep, with ``--store`` if it is needed."""
    from sweeps.store.store import Store

    where = Store.of(files).where
    named = "" if where == _default_store() else f" --store {shlex.quote(where)}"
    return f"sweeps {command} {files.sweep_id}{named}"


def _default_store() -> str | None:
    """Return the location of the store that commands use by default; None if it is not valid."""
    from sweeps.store.store import Store

    try:
        return Store(os.environ.get("SWEEPS_STORE", DEFAULT_STORE)).where
    except StoreError:
        return None
