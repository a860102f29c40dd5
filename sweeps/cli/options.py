"""Arguments and options that several commands take, and what they stand for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sweeps.errors import InputError

if TYPE_CHECKING:
    from sweeps.config.schema import SweepConfig
    from sweeps.plan.prepared import PreparedSweep
    from sweeps.store.store import Store, SweepFiles


class ExecutorName(StrEnum):
    """Where shards run."""

    ray = "ray"
    inline = "inline"


class WriterChoice(StrEnum):
    """Who writes the trials into MLflow."""

    auto = "auto"
    bulk = "bulk"
    client = "client"


class ReportFormat(StrEnum):
    """What a report can be printed as."""

    html = "html"
    md = "md"
    csv = "csv"
    json = "json"


ConfigPath = Annotated[Path, typer.Argument(metavar="CONFIG", help="The sweep file (YAML).")]
SweepId = Annotated[str, typer.Argument(metavar="ID", help="A sweep's id, or the start of it.")]
StoreOption = Annotated[
    str,
    typer.Option(
        "--store",
        envvar="SWEEPS_STORE",
        metavar="DIR|URI",
        help="What holds all sweeps: a folder, or s3://BUCKET/PREFIX, which several hosts share.",
    ),
]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a key, as training.epochs=5.")
]
IdOption = Annotated[
    str | None,
    typer.Option("--id", metavar="ID", help="The sweep's id; if the store holds that sweep, it is gone on with."),
]
TagOption = Annotated[
    list[str] | None, typer.Option("--tag", metavar="KEY=VALUE", help="Kept with the sweep, and on its MLflow run.")
]
ExecutorOption = Annotated[ExecutorName, typer.Option("--executor", help="Where the trials run.")]
AddressOption = Annotated[str | None, typer.Option("--address", metavar="ADDR", help="Join a running Ray cluster.")]
TrackingOption = Annotated[
    str | None,
    typer.Option(
        "--tracking-uri",
        envvar="MLFLOW_TRACKING_URI",
        metavar="URI",
        help="Where MLflow is; by default a database in the store.",
    ),
]
DatabaseOption = Annotated[
    str | None,
    typer.Option(
        "--tracking-database",
        envvar="SWEEPS_TRACKING_DATABASE",
        metavar="URI",
        help="The tracking server's database, for writing in bulk; or $NAME, the variable that holds its URI.",
    ),
]
ClusterOption = Annotated[
    str,
    typer.Option(
        "--address",
        envvar="RAY_API_SERVER_ADDRESS",
        metavar="URL",
        help="The cluster's Jobs API, such as http://HOST:8265.",
    ),
]
JobId = Annotated[str, typer.Argument(metavar="ID", help="A job's id, or the start of it.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]

DEFAULT_STORE = "sweep-store"


def prepare_sweep_file(
    config: Path, overrides: list[str] | None, keeper: Store | None = None, as_json: bool = False
) -> PreparedSweep:
    """The work of a sweep file; a module of the user's own is named before it is imported.

    Its data file is read from a copy in the store ``keeper``, if there is one.
    """
    from sweeps.cli.terminal import note, say
    from sweeps.config.datasets import FileData
    from sweeps.config.loader import load, with_data_at
    from sweeps.config.models import ModuleModel
    from sweeps.plan.prepared import prepare

    loaded = load(config, overrides)
    if isinstance(model := loaded.task.model, ModuleModel):
        (note if as_json else say)(f"module: {model.module} is imported and called, here and by every worker")
    if keeper is not None and isinstance(data := loaded.task.dataset, FileData) and Path(data.path).is_file():
        keeper.check_writable()
        loaded = with_data_at(loaded, str(keeper.keep_data(Path(data.path))))
    return prepare(loaded, str(config))


def find(store: str, sweep_id: str) -> tuple[Store, SweepFiles]:
    """The store, and the sweep of an id or the start of one."""
    from sweeps.store.store import Store

    home = Store(store)
    return home, home.find(sweep_id)


@contextmanager
def executor_of(kind: ExecutorName, address: str | None) -> Iterator[Any]:
    """What runs the shards; it ends with the block."""
    from sweeps.pipeline.factories import executor_for

    if kind is ExecutorName.inline and address is not None:
        raise InputError("--address goes with --executor ray")
    executor = executor_for(kind.value, address)
    try:
        yield executor
    finally:
        executor.stop()


def database_of(option: str | None, config: SweepConfig) -> str | None:
    """What the command line says, be it nothing, goes before the sweep file."""
    return config.tracking.database if option is None else option
