"""Commands that maintain the service: doctor, metrics, backup, restore."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from sweeps.cli.app import app
from sweeps.cli.options import (
    DEFAULT_STORE,
    AddressOption,
    DatabaseOption,
    JsonOption,
    StoreOption,
    TrackingOption,
)
from sweeps.errors import CheckFailed

ArchivePath = Annotated[Path, typer.Argument(metavar="FILE", help="The archive (.tar.zst).")]
DumpOption = Annotated[
    str | None,
    typer.Option("--database", metavar="URI", help="The tracking server's PostgreSQL URI, or $NAME of a variable."),
]
ArtifactsOption = Annotated[
    Path | None,
    typer.Option("--artifacts", metavar="DIR", help="The tracking server's artifact folder."),
]


@app.command()
def doctor(
    address: AddressOption = None,
    store: StoreOption = DEFAULT_STORE,
    tracking_uri: TrackingOption = None,
    tracking_database: DatabaseOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check this machine, Ray, MLflow and the store; suggest fixes."""
    from sweeps.cli.terminal import out, say, show_json
    from sweeps.service.doctor import ServiceSettings, examine
    from sweeps.store.store import Store

    found = []
    for check in examine(ServiceSettings(Store(store), address, tracking_uri, tracking_database)):
        found.append(check)
        if not as_json:
            style = {"ok": "green", "warning": "yellow", "failed": "red"}[check.status]
            out.print(f"{check.status:>7}", style=style, end="  ", markup=False)
            say(f"{check.name}: {check.found}")
            if check.remedy:
                say(f"         {check.remedy}")
    if as_json:
        show_json([asdict(check) for check in found])
    if failed := [check.name for check in found if check.status == "failed"]:
        raise CheckFailed(f"failed checks: {', '.join(failed)}")


@app.command()
def metrics(store: StoreOption = DEFAULT_STORE) -> None:
    """Print the progress of the store's sweeps in Prometheus format."""
    from sweeps.cli.terminal import note
    from sweeps.service.monitoring.prometheus import exposition
    from sweeps.store.store import Store, SweepFiles

    home = Store(store)
    sys.stdout.write(exposition(home).decode())
    for damage in filter(None, (damage for _, damage in home.survey(SweepFiles.damage))):
        note(damage)


@app.command()
def backup(
    archive: ArchivePath,
    database: DumpOption = None,
    artifacts: ArtifactsOption = None,
    store: StoreOption = DEFAULT_STORE,
) -> None:
    """Copy the store into one archive; sweeps can keep running."""
    from sweeps.cli.terminal import say
    from sweeps.pipeline.factories import database_uri
    from sweeps.service import backup as copies
    from sweeps.store.store import Store

    made = copies.backup(Store(store), archive, database_uri(database) if database else None, artifacts)
    also = [what for what, held in (("database", made.database), ("artifacts", made.artifacts)) if held]
    server = f", including the server's {' and '.join(also)}" if also else ""
    say(f"backup: {archive} ({made.files:,} files, {made.bytes / 1e6:,.1f} MB before compression{server})")


@app.command()
def restore(
    archive: ArchivePath,
    database: DumpOption = None,
    artifacts: ArtifactsOption = None,
    store: StoreOption = DEFAULT_STORE,
) -> None:
    """Restore a backup into an empty store and tracking server."""
    from sweeps.cli.terminal import say
    from sweeps.pipeline.factories import database_uri
    from sweeps.service import backup as copies
    from sweeps.store.store import Store

    home = Store(store)
    made = copies.restore(archive, home, database_uri(database) if database else None, artifacts)
    say(f"restored: {home.root} from the backup of {made.store} at {made.created} ({made.files:,} files)")
    for held, given, what in ((made.database, database, "database"), (made.artifacts, artifacts, "artifacts")):
        if held and given is None:
            say(f"not restored: the tracking server's {what} in the archive (restore with --{what})")
