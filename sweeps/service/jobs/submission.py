"""Submissions to a cluster: a sweep's resolved config, its files, and the command that runs it there."""

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
from sweeps.config.loader import load, with_data
from sweeps.config.messages import shown
from sweeps.config.models import ModuleModel
from sweeps.config.schema import SweepConfig
from sweeps.errors import InputError
from sweeps.text.redact import REDACTED, redact_uri
from sweeps.text.regular_file import read_regular

MAX_FILE_BYTES = 50_000_000  # per uploaded file; Ray accepts packages of up to 100 MiB
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")  # Ray accepts any id and uses it in paths and addresses
_USERINFO = re.compile(r"([A-Za-z][\w+.-]*://)[^/\s]*@")
_NO_STORE = "error: the cluster has no store; set SWEEPS_STORE there, or submit with --store"


@dataclass(frozen=True)
class Destination:
    """The store and the tracking URI as seen from the cluster; None means the cluster's environment decides."""

    store: str | None = None
    tracking_uri: str | None = None


@dataclass(frozen=True)
class Submission:
    """A sweep to submit to a cluster."""

    submission_id: str
    name: str
    digest: str  # SHA-256 of everything that determines the results
    config_yaml: str
    files: dict[str, Path] = field(default_factory=dict)  # uploaded files by their name in the job's folder
    place: Destination = Destination()
    tags: dict[str, str] = field(default_factory=dict)
    fresh: bool = False

    @property
    def sweep_id(self) -> str:
        """The sweep's id, which is the same for every attempt, so that a new attempt resumes the sweep."""
        return hashlib.sha256(f"sweep {self.submission_id}".encode()).hexdigest()[:12]

    @property
    def command(self) -> list[str]:
        """The command that runs the sweep in the job's folder on the cluster."""
        copy = ["--copy-data"] if any(name.startswith("data.") for name in self.files) else []
        store = ["--store", self.place.store] if self.place.store else []
        tracking = ["--tracking-uri", self.place.tracking_uri] if self.place.tracking_uri else []
        tags = [part for key, value in self.tags.items() for part in ("--tag", f"{key}={value}")]
        fresh = ["--fresh"] if self.fresh else []
        options = ["--id", self.sweep_id, "--address", "auto"]
        return ["sweeps", "run", "sweep.yaml", *options, *copy, *store, *tracking, *tags, *fresh]

    @property
    def entrypoint(self) -> str:
        """The command as a shell line, which exits with the sweep's exit code."""
        # Without a store the sweep would be written to the job's folder, which Ray removes.
        check = "" if self.place.store else f'[ -n "$SWEEPS_STORE" ] || {{ echo {shlex.quote(_NO_STORE)}; exit 2; }}; '
        return f"{check}exec {shlex.join(self.command)}"

    def write(self, folder: Path) -> None:
        """Write the config and the files into the job's folder."""
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
    """Prepare the submission of a sweep file.

    Args:
        path: the sweep file.
        overrides: KEY=VALUE.
        submission_id: the id; by default the sweep's name and a hash of everything that determines its results.
        place: the store and tracking URI on the cluster.
        tags: tags for the sweep.
        fresh: whether to start a new sweep even if the same one was submitted before.
        send_files: whether to upload the sweep's files; False if it runs on this machine.

    Raises:
        InputError: the sweep file is invalid, a file is too large to upload, or a URI contains credentials,
            which all users of the cluster could read.
    """
    place = place or Destination()
    for option, uri, variables in (
        ("--tracking-uri", place.tracking_uri, "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"),
        ("--store", place.store, "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"),
    ):
        hidden = _USERINFO.sub(rf"\1{REDACTED}@", redact_uri(uri or ""))
        if uri and hidden != uri:
            raise InputError(
                f"{option} {hidden}: must not contain a user, a token or a "
                f"password, since jobs are visible to all; set {variables} on the cluster"
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
    """Return the submission id if it is valid.

    Raises:
        InputError: it is not.
    """
    if not _ID.fullmatch(submission_id):
        raise InputError(f"submission id {shown(submission_id)}: must have 1 to 100 letters, digits and . _ -")
    return submission_id


def slug(name: str) -> str:
    """Convert a name to lower-case letters, digits and dashes for use in an id."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower())[:40].strip("-") or "sweep"


def _with_files(config: SweepConfig, path: Path) -> tuple[SweepConfig, dict[str, Path]]:
    """Return the config with the job's paths, and the files to upload: the data and a module in this folder."""
    files: dict[str, Path] = {}
    model, dataset = config.task.model, config.task.dataset
    if isinstance(model, ModuleModel):
        name = model.module.partition(":")[0].partition(".")[0] + ".py"
        if Path(name).is_file():  # imports resolve in the working directory, as in a local run
            files[name] = Path(name).absolute()
    if isinstance(dataset, FileData) and Path(dataset.path).is_file():
        name = f"data.{dataset.kind}"
        files[name] = Path(dataset.path)
        config = with_data(config, path=name)
    for file in files.values():
        if (size := file.stat().st_size) > MAX_FILE_BYTES:
            raise InputError(
                f"{path}: {file} has {size / 1e6:,.0f} MB; at most {MAX_FILE_BYTES / 1e6:.0f} MB can be uploaded; "
                "copy it to the cluster and set its path there"
            )
    return config, files


def _content(path: Path) -> bytes:
    try:
        return read_regular(path, MAX_FILE_BYTES)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
