"""What a cluster is sent: an id made from name and content, the files that are needed there, and no secrets."""

import os
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from sweeps.config import strict_yaml
from sweeps.config.datasets import FileData
from sweeps.config.loader import load
from sweeps.errors import InputError
from sweeps.service.jobs import submission
from sweeps.service.jobs.submission import Destination, prepare
from tests.support.documents import document

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def config(folder: str = "a", **changes: object) -> Path:
        path = tmp_path / folder / "sweep.yaml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(strict_yaml.write(document(**changes)))
        return path

    return config


def csv_task(folder: Path, rows: str = "x,y\n1,2\n2,3\n3,5\n", path: str = "points.csv") -> dict[str, object]:
    folder.mkdir(exist_ok=True)
    (folder / "points.csv").write_text(rows)
    return {"dataset": {"kind": "csv", "path": path, "target": "y"}, "model": {"kind": "linear"}}


def test_the_id_is_made_from_name_and_content(write: Write) -> None:
    first = prepare(write(name="Größe: 1/2 of it"))
    assert first.submission_id.startswith("gr-e-1-2-of-it-")
    assert prepare(write(folder="b", name="Größe: 1/2 of it")) == first
    other = prepare(write(name="Größe: 1/2 of it"), ["training.epochs=5"])
    assert other.submission_id != first.submission_id
    assert other.sweep_id != first.sweep_id
    assert prepare(write(name="?"), tags={"a": "b"}).submission_id.startswith("sweep-")
    fresh = [prepare(write(), fresh=True).submission_id for _ in range(2)]
    assert len({*fresh, prepare(write()).submission_id}) == 3


def test_the_same_data_elsewhere_is_the_same_sweep_and_other_data_is_not(write: Write, tmp_path: Path) -> None:
    there, elsewhere = (prepare(write(folder, task=csv_task(tmp_path / folder))) for folder in ("a", "b"))
    assert there.submission_id == elsewhere.submission_id
    changed = prepare(write("c", task=csv_task(tmp_path / "c", "x,y\n1,2\n2,3\n3,6\n")))
    assert changed.submission_id != there.submission_id
    sent = tmp_path / "sent"
    sent.mkdir()
    there.write(sent)
    dataset = load(sent / "sweep.yaml").task.dataset
    assert isinstance(dataset, FileData)
    assert dataset.path == str(sent / "data.csv")
    assert (sent / "data.csv").read_text() == "x,y\n1,2\n2,3\n3,5\n"
    assert "--copy-data" in there.command


def test_a_path_of_the_clusters_is_left_as_it_is(write: Write, tmp_path: Path) -> None:
    sent = prepare(write(task=csv_task(tmp_path / "a", path="/data/on/the/cluster.csv")))
    assert sent.files == {}
    assert "path: /data/on/the/cluster.csv" in sent.config_yaml
    assert "--copy-data" not in sent.command


def test_a_file_that_is_too_large_is_one_line(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submission, "MAX_FILE_BYTES", 10)
    path = write(task=csv_task(tmp_path / "a"))
    with pytest.raises(InputError, match=r"points\.csv has 0 MB; at most 0 MB can be uploaded; copy it to the cluster"):
        prepare(path)


def test_a_module_beside_the_user_is_sent_along(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_models.py").write_text("def make(): ...\n")
    task = {"dataset": {"kind": "line"}, "model": {"kind": "module", "module": "my_models:make"}}
    first = prepare(write(task=task, parameters={"lr": {"value": 0.1}}))
    assert first.files == {"my_models.py": tmp_path / "my_models.py"}
    (tmp_path / "my_models.py").write_text("def make(): return None\n")
    assert prepare(write(task=task, parameters={"lr": {"value": 0.1}})).submission_id != first.submission_id


def test_the_command_survives_the_shell(write: Write, tmp_path: Path) -> None:
    odd = {"note": 'it\'s $HOME; "quoted" & `x`'}
    sent = prepare(write(), None, "my.job_1", Destination("/a store", "http://mlflow:5000"), odd)
    assert sent.submission_id == "my.job_1"
    program = tmp_path / "sweeps"
    program.write_text('#!/bin/sh\nprintf "%s\\0" sweeps "$@"\nexit 4\n')
    program.chmod(0o755)
    environment = {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(["sh", "-c", sent.entrypoint], env=environment, capture_output=True, text=True)
    assert done.returncode == 4
    assert done.stdout.split("\0")[:-1] == sent.command
    assert shlex.split(sent.entrypoint)[:3] == ["exec", "sweeps", "run"]


def test_a_cluster_without_a_store_is_one_line(write: Write) -> None:
    environment = {"PATH": os.environ["PATH"]}
    done = subprocess.run(["sh", "-c", prepare(write()).entrypoint], env=environment, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stdout == "error: the cluster has no store; set SWEEPS_STORE there, or submit with --store\n"


@pytest.mark.parametrize("wrong", ["a/b", "../x", "", "-x", "a b", "a" * 101, "ü"])
def test_ids_that_cannot_be_are_refused(write: Write, wrong: str) -> None:
    with pytest.raises(InputError, match="letters, digits and"):
        prepare(write(), submission_id=wrong)


@pytest.mark.parametrize(
    "uri",
    [
        "postgresql://me:secret@host/db",
        "http://secret@host:5000",
        "https://:secret@host",
        "http://secret:@host",
        "postgresql://secret@host/db",
        "mysql+pymysql://secret@host/db",
        "https://host/?access_token=secret",
    ],
)
@pytest.mark.parametrize("place", ["tracking_uri", "store"])
def test_credentials_are_not_sent(write: Write, place: str, uri: str) -> None:
    option = f"--{place.replace('_', '-')}"
    with pytest.raises(InputError, match=f"{option} .*must not contain a user, a token or a password") as error:
        prepare(write(), place=Destination(**{place: uri}))
    assert "secret" not in str(error.value)


def test_an_at_sign_in_a_path_is_no_credential(write: Write) -> None:
    prepare(write(), place=Destination(tracking_uri="http://host/~me@home", store="s3://bucket/me@home"))
