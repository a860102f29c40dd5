"""Commands that inspect sweeps: list, show, report, replay, verify, ui, schema."""

from __future__ import annotations

import sys
from contextlib import nullcontext, suppress
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sweeps.cli.app import app
from sweeps.cli.options import DEFAULT_STORE, JsonOption, ReportFormat, StoreOption, SweepId, TrackingOption, find
from sweeps.cli.outcome import again_with
from sweeps.errors import CheckFailed

if TYPE_CHECKING:
    from sweeps.store.store import Store, SweepFiles


@app.command(name="list")
def list_(store: StoreOption = DEFAULT_STORE, as_json: JsonOption = False) -> None:
    """List the store's sweeps, newest first."""
    import pandas as pd

    from sweeps.cli.terminal import say, show_json, show_table
    from sweeps.store.store import Store

    home = Store(store)
    home.check_exists()
    rows = [row for _, row in home.survey(_listed)]
    if as_json:
        show_json(rows)
        return
    if not rows:
        say(f"no sweeps in {home.where}")
        return
    show_table(pd.DataFrame(rows).drop(columns="damage"))
    for row in rows:
        if row["damage"]:
            say(f"{row['id']}: {row['damage']}")


@app.command()
def show(sweep_id: SweepId, store: StoreOption = DEFAULT_STORE, as_json: JsonOption = False) -> None:
    """Show a sweep's state, stability map, verdicts and best trials."""
    from sweeps.cli.terminal import out, say, show_json, show_table
    from sweeps.cli.terminal_map import show_map
    from sweeps.report.headline import headline, lead_sentences
    from sweeps.report.trial_tables import best_trials, diverged_trials, overshoots, verdict_counts
    from sweeps.results.measured_edges import measured_edges
    from sweeps.results.recommendation import as_record, recommendation
    from sweeps.results.results import load_results
    from sweeps.results.stability_map import stability_panels

    _, files = find(store, sweep_id)
    loaded = load_results(files)
    tables = {
        "verdicts": verdict_counts(loaded),
        "best trials": best_trials(loaded),
        "diverged trials": diverged_trials(loaded),
        "overshoots": overshoots(loaded),
        "edges": measured_edges(loaded),
    }
    if as_json:
        records = {name: frame.to_dict(orient="records") for name, frame in tables.items()}
        found = recommendation(loaded)
        use = {"headline": headline(loaded), "recommendation": None if found is None else as_record(found)}
        show_json(_standing(files) | use | records)
        return
    state = files.state()
    say(f"{loaded.manifest['name']} {files.sweep_id}: {state}, {loaded.stored:,} trials")
    if (holder := files.holder()) is not None:
        say(f"held by {holder}")
    if tags := loaded.manifest.get("tags"):
        say(f"tags: {', '.join(f'{key}={value}' for key, value in tags.items())}")
    for failure in files.shards.failures():
        say(f"failed: {failure.reason}; see {failure}")
    if state not in ("running", "reported"):
        say(f"missing: {'; '.join(files.missing())}; complete the sweep with: {again_with(files, 'resume')}")
    for place in files.tracking_record.places():
        say(f"logged to {place['uri']}{'' if place.get('complete') else ' (incomplete)'}")
    for line in lead_sentences(loaded):
        say(line)
    if panels := stability_panels(loaded):
        say()
        show_map(panels, out)
    for name, frame in tables.items():
        if len(frame):
            say()
            show_table(frame, name)


@app.command()
def report(
    sweep_id: SweepId,
    store: StoreOption = DEFAULT_STORE,
    format_: Annotated[
        ReportFormat | None, typer.Option("--format", help="Print the report in this format instead.")
    ] = None,
) -> None:
    """Rewrite a sweep's report, or print it in one format."""
    from sweeps.cli.terminal import say
    from sweeps.report.files import render_report, write_csv, write_report
    from sweeps.results.results import load_results
    from sweeps.store.reopen import reopen
    from sweeps.verification.expected import check_expected

    _, files = find(store, sweep_id)
    with nullcontext() if format_ else files.lease():
        loaded = load_results(files)
        expected = check_expected(reopen(files), loaded) if loaded.config.expected and files.shards.done() else None
        if format_ is ReportFormat.csv:
            write_csv(loaded, sys.stdout)
        elif format_ is not None:
            sys.stdout.write(render_report(loaded, format_.value, expected=expected))
        else:
            say(f"report: {write_report(loaded, expected=expected)}")


@app.command()
def replay(
    sweep_id: SweepId,
    trial: Annotated[str, typer.Argument(metavar="TRIAL", help="A trial's number, id or unique prefix of its id.")],
    steps: Annotated[int, typer.Option("--steps", min=1, help="Show this many steps.")] = 20,
    store: StoreOption = DEFAULT_STORE,
    as_json: JsonOption = False,
) -> None:
    """Replay a trial step by step alongside torch.optim.SGD."""
    from sweeps.cli.terminal import say, show_json, show_table
    from sweeps.verification.replay import replay_trial

    _, files = find(store, sweep_id)
    replayed = replay_trial(files, trial)
    if as_json:
        show_json({**replayed.facts, "steps": replayed.frame.to_dict(orient="records")})
    else:
        say(replayed.title)
        say("loss: of each step's batch, before the step; reports show that of the whole training set")
        show_table(replayed.frame.head(steps))
        if len(replayed.frame) > steps:
            say(f"... {len(replayed.frame) - steps:,} more steps (--steps)")
        say(replayed.conclusion)
    if not replayed.agrees:
        raise CheckFailed("the store or the engine differs from torch.optim.SGD")


@app.command()
def verify(
    sweep_id: SweepId,
    sample: Annotated[
        int | None,
        typer.Option("--sample", min=0, metavar="N", help="Train N trials again; default: 20, fewer if they are long."),
    ] = None,
    store: StoreOption = DEFAULT_STORE,
    tracking_uri: TrackingOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check a sweep against its plan, MLflow and torch.optim.SGD."""
    from sweeps.cli.terminal import say, show_json
    from sweeps.pipeline.factories import tracker_for
    from sweeps.verification.audit import verify as audited

    home, files = find(store, sweep_id)
    tracker = tracker_for(home, tracking_uri, files)
    audit = audited(files, tracker, sample)
    if as_json:
        facts = asdict(audit) | {"verdicts": dict(audit.verdicts)}
        show_json(facts | {"tracking": tracker.uri, "clean": not audit.differences})
    else:
        for difference in audit.differences:
            say(str(difference))
        say(f"store:    {audit.stored:,} of {audit.trials:,} trials match the plan")
        say(f"tracking: {audit.logged:,} trials match the store, at {tracker.uri}")
        if audit.deleted:
            say(f"          {audit.deleted:,} runs were deleted in MLflow; restore them there to have them checked")
        say(f"sample:   {audit.recomputed:,} trials trained by torch.optim.SGD, {audit.exact:,} are equal bit for bit")
        if audit.curtailed:
            say(f"          a small sample, because a trial takes {audit.steps:,} steps; use --sample N for more")
    if audit.differences:
        count = len(audit.differences)
        raise CheckFailed(f"sweep {files.sweep_id}: {count:,} difference{'s' * (count != 1)}")


@app.command()
def ui(
    store: StoreOption = DEFAULT_STORE,
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, help="Listen on this port; 0: any free port.")
    ] = 5000,
) -> None:
    """Serve the store's MLflow UI on 127.0.0.1 until Ctrl-C."""
    from sweeps.cli.terminal import say
    from sweeps.errors import TrackingError
    from sweeps.store.store import Store
    from sweeps.tracking.mlflow.server.ui import serve

    home = Store(store)
    if home.is_shared:
        raise TrackingError(
            f"{home.where}: a shared store has no embedded MLflow; open the tracking server that 'sweeps show ID' "
            "names, or serve its database with 'mlflow ui --backend-store-uri URI'"
        )
    home.check_exists()
    with serve(home, port) as (address, server):
        say(f"MLflow UI: {address}{_newest_page(home)} (press Ctrl-C to stop)")
        sys.stdout.flush()
        with suppress(KeyboardInterrupt):
            server.wait()
            raise TrackingError(f"MLflow's server ended with exit code {server.returncode}")


@app.command()
def schema(
    schedules: Annotated[
        bool, typer.Option("--schedules", help="Print the schema of schedules files instead.")
    ] = False,
) -> None:
    """Print the JSON Schema of sweep files (for editors)."""
    from sweeps.cli.terminal import show_json
    from sweeps.config.schema import SweepConfig

    if schedules:
        from sweeps.service.schedule.schema import SchedulesFile

        show_json(SchedulesFile.model_json_schema())
    else:
        show_json(SweepConfig.model_json_schema())


def _newest_page(home: Store) -> str:
    """Return the page of the newest sweep's experiment in the embedded MLflow, in its view for training."""
    from sweeps.report.mlflow_note import experiment_page

    for files in home.sweeps():
        for place in files.tracking_record.places():
            if place.get("uri") == home.tracking_uri and place.get("experiment_id"):
                return f"/{experiment_page(place['experiment_id'])}"
    return ""


def _listed(files: SweepFiles) -> dict[str, Any]:
    if (damage := files.damage()) is not None:
        nothing = {"trials": None, "shards": "", "failed shards": None, "created": "", "damage": damage}
        return {"id": files.sweep_id, "name": "", "state": "damaged", **nothing}
    manifest, planned = files.manifest(), files.planned()
    return {
        "id": files.sweep_id,
        "name": manifest["name"],
        "state": files.state(),
        "trials": planned.trials,
        "shards": f"{len(files.shards.done())}/{planned.shards}",
        "failed shards": len(files.shards.failures()),
        "created": manifest["created"],
        "damage": None,
    }


def _standing(files: SweepFiles) -> dict[str, Any]:
    """Return a sweep's manifest, state, holder, failures and tracking places."""
    holder = files.holder()
    return {
        "manifest": files.manifest(),
        "state": files.state(),
        "missing": files.missing(),
        "held by": str(holder) if holder else None,
        "failed shards": [str(failure) for failure in files.shards.failures()],
        "logged to": files.tracking_record.places(),
    }
