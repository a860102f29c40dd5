"""Submission: what a cluster is sent of a sweep: the resolved config, its files, and the command that runs it there."""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import shlex
import shutil
from dataclasses import dataclass, field
from pathlib import Path

from sweeps.config.datasets import FileData
from sweeps.config.loader import load, with_data_at
from sweeps.config.messages import shown
from sweeps.config.models import ModuleModel
from sweeps.config.schema import SweepConfig
from sweeps.errors import InputError
from sweeps.text.redact import redact_uri

MAX_FILE_BYTES = 50_000_000  # of a file that is sent along; Ray takes packages of up to 100 MiB
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")  # Ray takes anything, and puts it into paths and addresses
_NO_STORE = "error: this cluster has no store: set SWEEPS_STORE there, or submit with --store"


@dataclass(frozen=True)
class Destination:
    """Where a sweep is kept and tracked, as its cluster sees it; None leaves that to the cluster's environment."""

    store: str | None = None
    tracking_uri: str | None = None


@dataclass(frozen=True)
class Submission:
    """A sweep on its way to a cluster."""

    submission_id: str
    name: str
    digest: str  # of all that decides what comes out
    config_yaml: str
    files: dict[str, Path] = field(default_factory=dict)  # that are sent along, by their name in the job's folder
    place: Destination = Destination()
    tags: dict[str, str] = field(default_factory=dict)
    fresh: bool = False

    @property
    def sweep_id(self) -> str:
        """The sweep's id: the same for every attempt, so that the cluster's store goes on with what is there."""
        return hashlib.sha256(f"sweep {self.submission_id}".encode()).hexdigest()[:12]

    @property
    def command(self) -> list[str]:
        """What runs the sweep, in the job's folder on the cluster."""
        copy = ["--copy-data"] if any(name.startswith("data.") for name in self.files) else []
        store = ["--store", self.place.store] if self.place.store else []
        tracking = ["--tracking-uri", self.place.tracking_uri] if self.place.tracking_uri else []
        tags = [part for key, value in self.tags.items() for part in ("--tag", f"{key}={value}")]
        fresh = ["--fresh"] if self.fresh else []
        options = ["--id", self.sweep_id, "--address", "auto"]
        return ["sweeps", "run", "sweep.yaml", *options, *copy, *store, *tracking, *tags, *fresh]

    @property
    def entrypoint(self) -> str:
        """The command as a line of shell: its exit code is the sweep's."""
        # Without a store the sweep would be written into the job's folder, which Ray removes.
        check = "" if self.place.store else f'[ -n "$SWEEPS_STORE" ] || {{ echo {shlex.quote(_NO_STORE)}; exit 2; }}; '
        return f"{check}exec {shlex.join(self.command)}"

    def write(self, folder: Path) -> None:
        """Lay out the job's folder."""
        (folder / "sweep.yaml").write_text(self.config_yaml, encoding="utf-8")
        for name, path in self.files.items():
            shutil.copyfile(path, folder / name)


def prepare(
    path: Path,
    overrides: list[str] | None = None,
    submission_id: str | None = None,
    place: Destination | None = None,
    tags: dict[str, str] | None = None,
    fresh: bool = False,
    send_files: bool = True,
) -> Submission:
    """The submission of a sweep file.

    Args:
        path: the sweep file.
        overrides: KEY=VALUE.
        submission_id: by default the sweep's name and a hash of all that decides what comes out.
        place: where the cluster is to keep and track it.
        tags: for the sweep.
        fresh: a sweep of its own, though the same may have been submitted before.
        send_files: whether the sweep runs where its files are not.

    Raises:
        InputError: the sweep file is wrong, a file is too large to be sent along, or what would be seen by everybody
            who may look at the cluster's jobs holds a password.
    """
    place = place or Destination()
    if place.tracking_uri and redact_uri(place.tracking_uri) != place.tracking_uri:
        raise InputError(
            f"--tracking-uri {redact_uri(place.tracking_uri)}: a job's command is no place for a password: "
            "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD on the cluster"
        )
    config = load(path, overrides)
    files: dict[str, Path] = {}
    if send_files:
        config, files = _with_files(config, path)
    text = config.to_yaml()
    sums = {name: hashlib.sha256(_content(file)).hexdigest() for name, file in files.items()}
    document = json.dumps([text, sums, place.store, place.tracking_uri], sort_keys=True)
    digest = hashlib.sha256(document.encode()).hexdigest()
    base = check_id(submission_id) if submission_id is not None else f"{slug(config.name)}-{digest[:12]}"
    if fresh and submission_id is None:
        base = f"{base}-{secrets.token_hex(3)}"
    return Submission(base, config.name, digest, text, files, place, tags or {}, fresh)


def check_id(submission_id: str) -> str:
    """The id, if it can be one.

    Raises:
        InputError: it cannot.
    """
    if not _ID.fullmatch(submission_id):
        raise InputError(f"submission id {shown(submission_id)}: up to 100 letters, digits and . _ - are needed")
    return submission_id


def slug(name: str) -> str:
    """A name as part of an id."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower())[:40].strip("-") or "sweep"


def _with_files(config: SweepConfig, path: Path) -> tuple[SweepConfig, dict[str, Path]]:
    """The config as the job sees it, and the files that it needs there: data, and a module beside the sweep."""
    files: dict[str, Path] = {}
    model, dataset = config.task.model, config.task.dataset
    if isinstance(model, ModuleModel):
        name = model.module.partition(":")[0].partition(".")[0] + ".py"
        if Path(name).is_file():  # as when it is run here: where the user is
            files[name] = Path(name).absolute()
    if isinstance(dataset, FileData) and Path(dataset.path).is_file():
        name = f"data.{dataset.kind}"
        files[name] = Path(dataset.path)
        config = with_data_at(config, name)
    for file in files.values():
        if (size := file.stat().st_size) > MAX_FILE_BYTES:
            raise InputError(
                f"{path}: {file} has {size / 1e6:,.0f} MB; up to {MAX_FILE_BYTES / 1e6:.0f} MB are sent along: "
                "copy it to the cluster, and name its path there"
            )
    return config, files


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
