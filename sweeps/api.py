"""The Python API: load, plan, run and resume sweeps, and open their results, from a program or a notebook."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any, Literal

from sweeps.errors import CheckFailed, ClusterLost, InputError, NotLogged, OutOfSpace, SweepsError, TrialsFailed

if TYPE_CHECKING:
    from sweeps.config.schema import SweepConfig
    from sweeps.planning.prediction import Forecast
    from sweeps.results.results import Results
    from sweeps.store.store import Store

DEFAULT_STORE = "sweep-store"
_ERRORS = {error.exit_code: error for error in (InputError, TrialsFailed, CheckFailed, NotLogged, OutOfSpace)}


@dataclass(frozen=True)
class PlanSummary:
    """What a sweep would run.

    Args:
        trials: the number of trials of the first stage; a grid has one stage.
        steps: steps per trial.
        shards: the number of shards on this machine.
        features: the names of the features, in order.
        notes: what was left out, filled in or encoded when the data were read.
        swept: the axes with more than one value, the widest first.
        dropped: combinations that torch.optim.SGD rejects, counted by reason.
        merged: combinations that are the same trial as another one, counted by reason.
        forecast: which settings theory predicts to be stable; None for networks and losses other than mse.
    """

    trials: int
    steps: int
    shards: int
    features: tuple[str, ...]
    notes: tuple[str, ...]
    swept: tuple[str, ...]
    dropped: Mapping[str, int]
    merged: Mapping[str, int]
    forecast: Forecast | None


def load_config(source: str | Path | Mapping[str, Any], overrides: Sequence[str] = ()) -> SweepConfig:
    """Load and validate a sweep file.

    Args:
        source: the path of a YAML file, or the same content as a mapping.
        overrides: ``KEY=VALUE`` with dotted keys, as for ``sweeps run --set``; for files only.

    Raises:
        ConfigError: one line per problem.

    Example:
        >>> config = load_config(
        ...     {
        ...         "name": "line",
        ...         "task": {"dataset": {"kind": "line"}},
        ...         "training": {"epochs": 20},
        ...         "parameters": {"lr": {"values": [0.01, 0.1]}, "momentum": {"values": [0, 0.9]}},
        ...     }
        ... )
        >>> config.training.epochs
        20
    """
    from sweeps.config.loader import load, parse

    if isinstance(source, Mapping):
        if overrides:
            raise InputError("overrides are for sweep files; change the mapping instead")
        return parse(dict(source), "config")
    return load(Path(source), list(overrides))


def plan(config: SweepConfig) -> PlanSummary:
    """Plan a sweep without running it; nothing is written.

    Raises:
        ConfigError, DataError: the sweep cannot be run.

    Example:
        >>> task = {"dataset": {"kind": "line"}}
        >>> axes = {"lr": {"values": [0.01, 0.1]}, "nesterov": {"values": [False, True]}}
        >>> summary = plan(load_config({"name": "x", "task": task, "training": {"epochs": 1}, "parameters": axes}))
        >>> summary.trials, dict(summary.dropped)
        (2, {'nesterov needs a momentum': 2})
    """
    from sweeps.planning.prediction import forecast
    from sweeps.planning.prepared import prepare

    prepared = prepare(config)
    planned = prepared.plan
    return PlanSummary(
        trials=len(planned),
        steps=planned.steps,
        shards=len(planned.shards()),
        features=prepared.task.dataset.feature_names,
        notes=prepared.task.dataset.notes,
        swept=planned.swept,
        dropped=dict(planned.dropped),
        merged=dict(planned.merged),
        forecast=forecast(prepared),
    )


def run(
    config: SweepConfig,
    store: str | Path = DEFAULT_STORE,
    *,
    executor: Literal["auto", "ray", "inline"] = "auto",
    address: str | None = None,
    tracking_uri: str | None = None,
    sweep_id: str | None = None,
    tags: Mapping[str, str] | None = None,
    fresh: bool = False,
) -> Results:
    """Run a sweep: train all trials, log them to MLflow, write the report, and return the results.

    The sweep runs in a separate ``sweeps run`` process, because Ray terminates a driver that has lost its cluster.
    Its output is printed as it arrives.

    Args:
        config: the sweep.
        store: a folder or ``s3://BUCKET/PREFIX``.
        executor: ``inline``, ``ray``, or ``auto``: Ray for long sweeps and if an address is given.
        address: a running Ray cluster; a local Ray by default.
        tracking_uri: the MLflow to log to; a database in the store by default.
        sweep_id: the id of the new sweep, random by default; if the store already has this sweep, it is resumed.
        tags: stored with the sweep and set on its MLflow run.
        fresh: train all trials, even those that earlier sweeps in the store have computed.

    Raises:
        KeyboardInterrupt: Ctrl-C was pressed; finished trials are kept, and the message names the call that resumes
            the sweep.
        ClusterLost: the cluster was lost; finished trials are kept.
        InputError, TrialsFailed, CheckFailed, NotLogged: ``sweeps run`` ended with exit code 2, 3, 4 or 5.

    Example:
        >>> axes = {"lr": {"values": [0.02, 0.03]}, "momentum": {"value": 0.9}}
        >>> task = {"dataset": {"kind": "line"}}
        >>> config = load_config({"name": "x", "task": task, "training": {"epochs": 200}, "parameters": axes})
        >>> results = run(config, executor="inline")  # doctest: +ELLIPSIS
        x: 2 trials of 1,000 steps...
        >>> results.trials[["lr", "verdict"]].values.tolist()
        [[0.02, 'diverged'], [0.03, 'converged']]
    """
    sweep_id = sweep_id or secrets.token_hex(4)
    options = ["--executor", executor, "--id", sweep_id]
    options += ["--address", address] if address else []
    options += ["--tracking-uri", tracking_uri] if tracking_uri else []
    options += [word for key, value in (tags or {}).items() for word in ("--tag", f"{key}={value}")]
    options += ["--fresh"] if fresh else []
    with tempfile.TemporaryDirectory(prefix="sweeps-run-") as folder:
        path = Path(folder) / "sweep.yaml"
        path.write_text(config.to_yaml(), encoding="utf-8")
        return _command(["run", str(path), *options], store, sweep_id)


def resume(
    sweep_id: str,
    store: str | Path = DEFAULT_STORE,
    *,
    executor: Literal["auto", "ray", "inline"] = "auto",
    address: str | None = None,
    tracking_uri: str | None = None,
) -> Results:
    """Compute, log and report what a sweep is missing, retry failed trials, and return the results.

    It raises the same errors as :func:`run`.

    Args:
        sweep_id: the sweep's id, or a unique prefix of it.
        store: a folder or ``s3://BUCKET/PREFIX``.
        executor: ``inline``, ``ray``, or ``auto``, as in :func:`run`.
        address: a running Ray cluster; a local Ray by default.
        tracking_uri: the MLflow to log to; by default the one that the sweep was logged to before.
    """
    options = ["--executor", executor]
    options += ["--address", address] if address else []
    options += ["--tracking-uri", tracking_uri] if tracking_uri else []
    sweep_id = open_store(store).find(sweep_id).sweep_id
    return _command(["resume", sweep_id, *options], store, sweep_id)


def open_store(where: str | Path = DEFAULT_STORE) -> Store:
    """Open a store; a folder need not exist yet.

    Raises:
        StoreError: the URI does not name a store.

    Example:
        >>> store = open_store("a-new-store")
        >>> store.sweeps()
        []
    """
    from sweeps.store.store import Store

    return Store(where)


def open_results(sweep_id: str, store: str | Path = DEFAULT_STORE) -> Results:
    """Return the results that are stored for a sweep, complete or not; trials are read on demand.

    Args:
        sweep_id: the sweep's id, or a unique prefix of it.
        store: a folder or ``s3://BUCKET/PREFIX``.

    Raises:
        StoreError: there is no such sweep, or one of its files is damaged.
    """
    from sweeps.results.results import load_results

    return load_results(open_store(store).find(sweep_id))


def _command(arguments: list[str], store: str | Path, sweep_id: str) -> Results:
    """Run a ``sweeps`` command, print its output, and raise the error that its exit code stands for."""
    command = [sys.executable, "-m", "sweeps.cli", *arguments, "--store", str(store)]
    complaints: list[str] = []
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        start_new_session=True,  # Ctrl-C comes to this process, which passes it on
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        reader = Thread(target=complaints.extend, args=(process.stderr,), daemon=True)
        reader.start()
        try:
            for line in process.stdout:
                print(line, end="", flush=True)  # noqa: T201 - the output of the command
            code = process.wait()
        except KeyboardInterrupt:
            kept = f"interrupted; what was done is kept: sweeps.resume({sweep_id!r}, {str(store)!r})"
            raise KeyboardInterrupt(kept) from None
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
                process.wait()
            reader.join()
    message = "".join(complaints).strip().removeprefix("error: ")
    if code == 0:
        return open_results(sweep_id, store)
    if code == ClusterLost.exit_code and "cluster" in message:
        raise ClusterLost(message)
    if code in (-signal.SIGINT, 130):
        raise KeyboardInterrupt(message)
    raise _ERRORS.get(code, SweepsError)(message or f"the sweep ended with exit code {code}")
