"""Commands for Ray jobs: submit, jobs, logs, cancel."""

from __future__ import annotations

import shlex
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from sweeps.cli.app import app
from sweeps.cli.options import ClusterOption, ConfigPath, JobId, JsonOption, SetOption, TagOption

if TYPE_CHECKING:
    from sweeps.service.jobs.ray_jobs import Cluster, Job


@app.command()
def submit(
    config: ConfigPath,
    address: ClusterOption,
    set_: SetOption = None,
    submission_id: Annotated[
        str | None,
        typer.Option(
            "--submission-id", metavar="ID", help="Set the job id; default: derived from the sweep's name and content."
        ),
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Follow the job and exit with the sweep's exit code.")] = False,
    tag: TagOption = None,
    store: Annotated[
        str | None, typer.Option("--store", metavar="DIR", help="The store on the cluster; default: its SWEEPS_STORE.")
    ] = None,
    tracking_uri: Annotated[
        str | None,
        typer.Option(
            "--tracking-uri", metavar="URI", help="The tracking URI on the cluster; default: its MLFLOW_TRACKING_URI."
        ),
    ] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Start a new sweep even if this one was submitted before; reuse nothing.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Submit a sweep as a Ray job.

    Submitting it again returns the existing job, or resumes it if it failed.
    """
    from sweeps.cli.terminal import say, show_json
    from sweeps.pipeline.rerun import tags_of
    from sweeps.service.jobs.ray_jobs import Cluster
    from sweeps.service.jobs.submission import Destination, prepare

    submission = prepare(config, set_, submission_id, Destination(store, tracking_uri), tags_of(tag), fresh)
    cluster = Cluster(address)
    job, new = cluster.submit(submission)
    if as_json:
        show_json(_row(job) | {"new": new})
    elif new:
        attempt = "" if job.attempt == 1 else f", attempt {job.attempt}: resumes from the store"
        say(f"submitted {job.job_id} (sweep {job.sweep_id}{attempt})")
    else:
        say(f"{job.job_id} exists already: {job.outcome} (sweep {job.sweep_id})")
    if wait:
        _wait(cluster, job)
    elif new and not as_json:
        say(f"follow it with: {_command('logs', job, cluster)} --follow")


@app.command()
def jobs(address: ClusterOption, as_json: JsonOption = False) -> None:
    """List a cluster's jobs, newest first."""
    import pandas as pd

    from sweeps.cli.terminal import say, show_json, show_table
    from sweeps.service.jobs.ray_jobs import Cluster

    cluster = Cluster(address)
    rows = [_row(job) for job in reversed(cluster.jobs())]
    if as_json:
        show_json(rows)
    elif rows:
        show_table(
            pd.DataFrame([{key: "" if value is None else str(value) for key, value in row.items()} for row in rows])
        )
    else:
        say(f"no sweeps at {cluster}")


@app.command()
def logs(
    job_id: JobId,
    address: ClusterOption,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Follow the output until the job ends.")] = False,
) -> None:
    """Print a job's output."""
    from sweeps.service.jobs.ray_jobs import Cluster

    cluster = Cluster(address)
    job = cluster.find(job_id)
    if follow:
        _follow(cluster, job)
    else:
        _print(cluster.logs(job))


@app.command()
def cancel(job_id: JobId, address: ClusterOption) -> None:
    """Stop a job.

    Its results are kept; submitting it again resumes it.
    """
    from sweeps.cli.terminal import say
    from sweeps.service.jobs.ray_jobs import Cluster

    cluster = Cluster(address)
    job = cluster.find(job_id)
    was_running = cluster.cancel(job)
    say(f"{job.job_id}: stopping" if was_running else f"{job.job_id} has already ended: {job.outcome}")


def _wait(cluster: Cluster, job: Job) -> None:
    from sweeps.cli.terminal import say

    ended = _follow(cluster, job)
    if ended.exit_code:
        say(f"{ended.job_id}: {ended.outcome}")
        raise typer.Exit(ended.exit_code)


def _follow(cluster: Cluster, job: Job) -> Job:
    try:
        return cluster.follow(job, _print)
    except KeyboardInterrupt:
        again, end = _command("logs", job, cluster), _command("cancel", job, cluster)
        raise KeyboardInterrupt(
            f"{job.job_id} keeps running; follow it with: {again} --follow; stop it with: {end}"
        ) from None


def _print(text: str) -> None:
    from sweeps.text.sanitize import acts

    sys.stdout.write("".join(c for c in text if c in "\n\t" or not acts(c)))
    sys.stdout.flush()


def _command(name: str, job: Job, cluster: Cluster) -> str:
    return f"sweeps {name} {job.job_id} --address {shlex.quote(str(cluster))}"


def _row(job: Job) -> dict[str, object]:
    return {
        "id": job.job_id,
        "name": job.name,
        "sweep": job.sweep_id,
        "attempt": job.attempt,
        "state": job.state,
        "exit code": job.exit_code,
        "started": job.started.isoformat(timespec="seconds") if job.started else "",
        "ended": job.ended.isoformat(timespec="seconds") if job.ended else "",
    }
