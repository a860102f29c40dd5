"""Commands for a sweep as a whole: best, refine, open, stop, rm."""

from __future__ import annotations

import os
import signal
import socket
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from sweeps.cli.app import app
from sweeps.cli.options import DEFAULT_STORE, JsonOption, StoreOption, SweepId, find
from sweeps.cli.outcome import again_with
from sweeps.errors import InputError, StoreError, SweepHeld


@app.command()
def best(sweep_id: SweepId, store: StoreOption = DEFAULT_STORE, as_json: JsonOption = False) -> None:
    """Print the best trial's settings, as YAML and as --set to use again."""
    import shlex

    import pyarrow.compute as pc

    from sweeps.cli.terminal import note, say, show_json
    from sweeps.config import strict_yaml
    from sweeps.config.schema import HYPERPARAMETERS, REPEATS
    from sweeps.results.ranking import best_trial

    _, files = find(store, sweep_id)
    config = files.config()
    metric, chosen = config.metric_name, best_trial(files, config)
    if chosen is None:
        raise StoreError(f"sweep {files.sweep_id}: no stored trial has a finite {metric}; compute or change the sweep")
    number = chosen.number
    shard = files.shards.read(chosen.shard)
    [row] = shard.filter(pc.equal(shard["trial"], number)).to_pylist()
    axes = {name for mapping in config.mappings() for name in mapping} - set(REPEATS)
    names = [name for name in row if name in HYPERPARAMETERS or name in axes]
    settings = {name: row[name] for name in names if row[name] is not None and row[name] == row[name]}
    again = {"parameters": {name: {"value": value} for name, value in settings.items()}, "seeds": [row["seed"]]}
    if as_json:
        facts: dict[str, Any] = {
            "sweep_id": files.sweep_id,
            "trial": number,
            "trial_id": row["trial_id"],
            "verdict": row["verdict"],
        }
        facts |= {"metric": metric, "value": chosen.value, "settings": settings, "seed": row["seed"]}
        show_json(facts | again)
        return
    folds = config.task.dataset.folds
    what = f"the setting of trial {number} has the best mean {metric} over {folds} folds" if folds else ""
    what = what or f"trial {number} has the best {metric}"
    note(f"{files.manifest()['name']} {files.sweep_id}: {what}, {chosen.value:.6g}")
    sys.stdout.write(strict_yaml.write(again))
    flow = ", ".join(f"{name}: {{value: {_word(value)}}}" for name, value in settings.items())
    say(f"# --set {shlex.quote(f'parameters={{{flow}}}')} --set 'seeds=[{row['seed']}]'")


@app.command()
def refine(
    sweep_id: SweepId,
    edge: Annotated[bool, typer.Option("--edge", help="Zoom to the edge of stability along lr.")] = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write to this file, not standard output.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file.")] = False,
    store: StoreOption = DEFAULT_STORE,
) -> None:
    """Write the next sweep file, zoomed to the best region or the edge."""
    import shlex

    from sweeps.cli.terminal import say
    from sweeps.report.refined_file import refined_file
    from sweeps.results.results import load_results
    from sweeps.store.backends import aside

    if force and output is None:
        raise InputError("--force needs --output FILE")
    if output is not None and output.exists() and not force:
        raise InputError(f"{output}: exists already; overwrite it with --force")
    _, files = find(store, sweep_id)
    text = refined_file(load_results(files), edge)
    if output is None:
        sys.stdout.write(text)
        return
    try:
        with aside(output) as piece:
            piece.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"{output}: cannot be written: {error.strerror}") from error
    say(f"wrote {output}; run it with: sweeps run {shlex.quote(str(output))}")


@app.command(name="open")
def open_(sweep_id: SweepId, store: StoreOption = DEFAULT_STORE) -> None:
    """Open a sweep's report in a browser, or print its path."""
    import webbrowser

    from sweeps.cli.terminal import say
    from sweeps.store.store import Store

    _, files = find(store, sweep_id)
    if not files.report.is_written():
        raise StoreError(f"sweep {files.sweep_id}: has no report yet; write it with: sweeps report {files.sweep_id}")
    say(files.report.location("report.html"))
    if Store.of(files).is_shared or not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        return
    webbrowser.open((files.report.folder / "report.html").as_uri())


@app.command()
def stop(sweep_id: SweepId, store: StoreOption = DEFAULT_STORE) -> None:
    """Stop a sweep that runs on this machine; what is computed is kept."""
    from sweeps.cli.terminal import say

    _, files = find(store, sweep_id)
    holder = files.holder()
    if holder is None:
        say(f"sweep {files.sweep_id} does not run: it is {files.state()}")
        return
    if holder.host != socket.gethostname() or holder.pid <= 0:
        where = f"on {holder.host}" if holder.host else "elsewhere"
        raise InputError(f"sweep {files.sweep_id} is held by {holder}: stop it {where}, a job with 'sweeps cancel'")
    try:
        os.kill(holder.pid, signal.SIGTERM)
    except ProcessLookupError:
        say(f"sweep {files.sweep_id} has just ended")
    except PermissionError as error:
        raise InputError(f"sweep {files.sweep_id} is held by {holder}: only that user can stop it") from error
    else:
        say(f"sweep {files.sweep_id}: stopping process {holder.pid}; continue with: {again_with(files, 'resume')}")


@app.command()
def rm(
    sweep_ids: Annotated[list[str], typer.Argument(metavar="ID...", help="Sweep ids, unique prefixes, or names.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    store: StoreOption = DEFAULT_STORE,
) -> None:
    """Remove sweeps from the store; their runs in MLflow stay."""
    from sweeps.cli.terminal import say
    from sweeps.store.store import Store

    home = Store(store)
    found = {files.sweep_id: files for files in map(home.find, sweep_ids)}
    for files in found.values():
        if (holder := files.holder()) is not None:
            raise SweepHeld(f"sweep {files.sweep_id} is held by {holder}; stop it with: sweeps stop {files.sweep_id}")
    if not yes:
        if not sys.stdin.isatty():
            raise InputError(f"would remove {', '.join(found)} from {home.where}; confirm with --yes")
        say(f"remove from {home.where}: {', '.join(found)}")
        typer.confirm("Remove these folders? Runs in MLflow stay.", abort=True)
    for files in found.values():
        home.remove(files)
        say(f"removed sweep {files.sweep_id} from {home.where}; its runs in MLflow stay")


def _word(value: object) -> str:
    """Return a value as YAML reads it."""
    return str(value).lower() if isinstance(value, bool) else str(value)
