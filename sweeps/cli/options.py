"""Arguments and options that several commands share, and helpers that resolve them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sweeps.errors import InputError

if TYPE_CHECKING:
    from sweeps.config.schema import SweepConfig
    from sweeps.execution.executor import Executor
    from sweeps.planning.prepared import PreparedSweep
    from sweeps.store.store import Store, SweepFiles


class ExecutorName(StrEnum):
    """The executors that run shards."""

    auto = "auto"
    ray = "ray"
    inline = "inline"


class WriterChoice(StrEnum):
    """The ways to write trials into MLflow."""

    auto = "auto"
    bulk = "bulk"
    client = "client"


class ReportFormat(StrEnum):
    """The formats in which a report can be printed."""

    html = "html"
    md = "md"
    csv = "csv"
    json = "json"


RAY_ADDRESS = "RAY_ADDRESS"  # as for Ray itself

ConfigPath = Annotated[Path, typer.Argument(metavar="CONFIG", help="The sweep file (YAML).")]
SweepId = Annotated[str, typer.Argument(metavar="ID", help="A sweep id, a unique prefix, a name, or latest.")]
StoreOption = Annotated[
    str,
    typer.Option(
        "--store",
        envvar="SWEEPS_STORE",
        metavar="DIR|URI",
        help="Use this store: a folder, or s3://BUCKET/PREFIX to share it between hosts.",
    ),
]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a key, e.g. training.epochs=5.")
]
IdOption = Annotated[
    str | None,
    typer.Option("--id", metavar="ID", help="Set the sweep's id; if the store has that sweep, resume it."),
]
TagOption = Annotated[
    list[str] | None, typer.Option("--tag", metavar="KEY=VALUE", help="Tag the sweep and its MLflow run; repeatable.")
]
ExecutorOption = Annotated[
    ExecutorName,
    typer.Option(
        "--executor",
        envvar="SWEEPS_EXECUTOR",
        help="Run trials on Ray or inline, in this process; auto: Ray for long sweeps.",
    ),
]
AddressOption = Annotated[
    str | None,
    typer.Option("--address", envvar=RAY_ADDRESS, metavar="ADDR", help="Join a running Ray cluster."),
]
TrackingOption = Annotated[
    str | None,
    typer.Option(
        "--tracking-uri",
        envvar="MLFLOW_TRACKING_URI",
        metavar="URI",
        help="Use this MLflow; default: a database in the store.",
    ),
]
DatabaseOption = Annotated[
    str | None,
    typer.Option(
        "--tracking-database",
        envvar="SWEEPS_TRACKING_DATABASE",
        metavar="URI",
        help="Write in bulk to the server's database: a URI, or $NAME of a variable.",
    ),
]
ClusterOption = Annotated[
    str,
    typer.Option(
        "--address",
        envvar="RAY_API_SERVER_ADDRESS",
        metavar="URL",
        help="The cluster's Jobs API, e.g. http://HOST:8265.",
    ),
]
JobId = Annotated[str, typer.Argument(metavar="ID", help="A job id or a unique prefix of one.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]

DEFAULT_STORE = "sweep-store"


def prepare_sweep_file(
    config: Path, overrides: list[str] | None, keeper: Store | None = None, as_json: bool = False
) -> PreparedSweep:
    """Load a sweep file and plan it. A user's module is named in the output before it is imported, and so is
    what was left out, filled in or encoded in the data.

    With a store ``keeper``, the data file is copied there and read from the copy.
    """
    from sweeps.cli.terminal import note, say
    from sweeps.config.datasets import FileData
    from sweeps.config.loader import load, with_data
    from sweeps.config.models import ModuleModel
    from sweeps.planning.model_kinds import module_folder
    from sweeps.planning.prepared import prepare

    loaded = load(config, overrides)
    if isinstance(model := loaded.task.model, ModuleModel):
        where = f"from {module_folder(model)}, here and by every worker"
        (note if as_json else say)(f"module: {model.module} is imported and called, {where}")
    if keeper is not None and isinstance(data := loaded.task.dataset, FileData) and Path(data.path).is_file():
        keeper.check_writable()
        loaded = with_data(loaded, path=str(keeper.keep_data(Path(data.path))))
    prepared = prepare(loaded, str(config))
    for each in prepared.task.dataset.notes:
        (note if as_json else say)(f"data: {each}")
    return prepared


def find(store: str, sweep_id: str) -> tuple[Store, SweepFiles]:
    """Return the store and the sweep with this id or unique prefix."""
    from sweeps.store.store import Store

    home = Store(store)
    return home, home.find(sweep_id)


@contextmanager
def executor_of(kind: ExecutorName, address: str | None, prepared: PreparedSweep) -> Iterator[Any]:
    """Yield the executor that runs shards, and stop it at the end of the block."""
    from sweeps.cli.terminal import say, show_compilations
    from sweeps.pipeline.factories import executor_for

    if kind is ExecutorName.inline and address not in (None, os.environ.get(RAY_ADDRESS)):
        raise InputError("--address needs --executor ray or auto")
    name, why = executor_choice(kind, address, prepared)
    if why:
        say(f"executor: {name} ({why})")
    executor = executor_for(name, address)
    if executor.is_inline:
        show_compilations()
    try:
        yield executor
    finally:
        executor.stop()


@contextmanager
def stopping(executor: Executor) -> Iterator[None]:
    """Stop the executor in a thread while the block runs: a local Ray takes a second or two to stop."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as pool:
        stopped = pool.submit(executor.stop)
        yield
        stopped.result()


def executor_choice(kind: ExecutorName, address: str | None, prepared: PreparedSweep) -> tuple[str, str]:
    """Return the executor for a sweep, and why it was chosen if the user did not choose it."""
    from sweeps.pipeline.factories import chosen_executor
    from sweeps.planning.work import predicted_seconds

    return chosen_executor(kind.value, address, predicted_seconds(prepared))


def database_of(option: str | None, config: SweepConfig) -> str | None:
    """Return the tracking database given on the command line, even if empty, else the one in the sweep file."""
    return config.tracking.database if option is None else option
