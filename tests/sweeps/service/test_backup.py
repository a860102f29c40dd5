"""Backups of stores in use: restored elsewhere, sweeps go on, artifacts are found, and what is damaged is refused."""

import io
import shutil
import signal
import sqlite3
import subprocess
import tarfile
import time
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pyarrow as pa
import pytest
from mlflow import MlflowClient

from sweeps.config import strict_yaml
from sweeps.errors import StoreError, SweepsError, TrackingError
from sweeps.planning.prepared import PreparedSweep
from sweeps.service.backup import backup, restore
from sweeps.service.schedule.tick_table import Tick, TickTable
from sweeps.store.store import Store, SweepFiles
from sweeps.tracking.mlflow.server.ui import serve
from tests.support.command_line import Cli
from tests.support.documents import document
from tests.support.postgres import Cluster


def contents(files: SweepFiles) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in files.shards.folder.glob("*.parquet")}


def parent(store: Store, files: SweepFiles) -> str:
    return str(files.tracking_record.first()["run_id"])


@pytest.mark.slow
def test_sweeps_backed_up_while_they_run_and_after_a_kill_go_on_elsewhere(
    cli: Cli, store: Store, tmp_path: Path
) -> None:
    config = tmp_path / "sweep.yaml"
    config.write_text(strict_yaml.write(document(name="done")))
    cli("run", config, "--executor", "inline")
    [done] = store.sweeps()
    changes = {"parameters": {"lr": {"min": 0.001, "max": 0.03, "count": 400}}, "execution": {"trials_per_shard": 1}}
    config.write_text(strict_yaml.write(document(name="killed", experiment="e", **changes)))
    process = cli.start("run", config, "--executor", "inline")
    while not any(len(files.shards.done()) > 3 for files in store.sweeps() if files.sweep_id != done.sweep_id):
        assert process.poll() is None
        time.sleep(0.01)
    [running] = [files for files in store.sweeps() if files.sweep_id != done.sweep_id]
    with ThreadPoolExecutor(1) as pool:
        saved = pool.submit(backup, store, tmp_path / "running.tar.zst")
        while not saved.done() and len(running.shards.done()) < 300:
            time.sleep(0.01)
        process.send_signal(signal.SIGSTOP)  # a slow backup must not see the sweep end
        saved.result()
    process.send_signal(signal.SIGKILL)
    process.communicate()
    [killed] = [files for files in store.sweeps() if files.sweep_id != done.sweep_id]
    assert 3 < len(killed.shards.done()) < 400
    cli("backup", tmp_path / "killed.tar.zst")
    before = contents(killed)
    shutil.rmtree(store.root)

    at_kill = Store(tmp_path / "at kill")
    restore(tmp_path / "killed.tar.zst", at_kill)
    assert contents(at_kill.find(killed.sweep_id)) == before
    assert {files.state() for files in at_kill.sweeps()} == {"interrupted", "reported"}

    moved = Store(tmp_path / "moved")
    said = cli("restore", tmp_path / "running.tar.zst", "--store", moved.root).stdout
    assert f"restored: {moved.root} from the backup of {store.root} at " in said
    assert not store.root.exists()
    assert len(moved.find(killed.sweep_id).shards.done()) <= len(before)
    cli("resume", killed.sweep_id, "--executor", "inline", "--store", moved.root)
    assert not store.root.exists()
    for sweep in (done, killed):
        assert moved.find(sweep.sweep_id).state() == "reported"
        cli("verify", sweep.sweep_id, "--store", moved.root, "--sample", "2")
    with serve(moved, 0) as (address, _):
        for sweep in (done, killed):
            files = moved.find(sweep.sweep_id)
            asked = f"{address}/get-artifact?path=config.yaml&run_uuid={parent(moved, files)}"
            with urllib.request.urlopen(asked) as answer:
                assert answer.read() == files.config_path.read_bytes()


@pytest.fixture
def archive(
    make_prepared: Callable[..., PreparedSweep],
    stored: Callable[[PreparedSweep], SweepFiles],
    store: Store,
    tmp_path: Path,
) -> Path:
    """A small store's."""
    stored(make_prepared())
    (store.root / "artifacts" / "e").mkdir(parents=True)
    (store.root / "artifacts" / "e" / "é.txt").write_text("an artifact")
    made = backup(store, tmp_path / "small.tar.zst")
    assert (made.store, made.database) == (str(store.root), False)
    return tmp_path / "small.tar.zst"


def test_everything_comes_back_but_locks_and_what_was_being_written(
    archive: Path, store: Store, tmp_path: Path
) -> None:
    again = Store(tmp_path / "again")
    restore(archive, again)
    copied = {path.relative_to(again.root): path.read_bytes() for path in again.root.rglob("*") if path.is_file()}
    original = {path.relative_to(store.root): path.read_bytes() for path in store.root.rglob("*") if path.is_file()}
    assert copied.keys() == original.keys()
    database = Path("mlflow.db")
    assert {p: b for p, b in copied.items() if p != database} == {p: b for p, b in original.items() if p != database}
    dumps = []
    for home in (store, again):
        with closing(sqlite3.connect(home.database)) as connection:
            dumps.append(list(connection.iterdump()))
    assert dumps[0] == dumps[1]

    [files] = store.sweeps()
    (files.shards.folder / "00009.123.new").touch()
    with files.lease():
        backup(store, tmp_path / "held.tar.zst")
    restore(tmp_path / "held.tar.zst", Store(tmp_path / "held"))
    names = {path.name for path in (tmp_path / "held").rglob("*")}
    assert "00000.parquet" in names
    assert names.isdisjoint({"lease", "00009.123.new"})


def test_an_archive_is_read_by_tar(archive: Path) -> None:
    listed = subprocess.run(["tar", "--zstd", "-tf", archive], capture_output=True, text=True, check=True).stdout
    assert "sweeps/abcd1234/plan.json" in listed
    assert listed.endswith("backup.json\n")


def test_addresses_within_the_store_move_and_others_stay(store: Store, tmp_path: Path) -> None:
    client = MlflowClient(store.tracking_uri)
    inside = client.create_experiment("inside", artifact_location=f"{store.artifacts.as_uri()}/inside")
    beside = client.create_experiment("beside", artifact_location=f"{store.artifacts.as_uri()}-beside/x")
    bucket = client.create_experiment("bucket", artifact_location="s3://bucket/x")
    run = client.create_run(inside)
    client.log_text(run.info.run_id, "hello", "a/b.txt")
    client.create_registered_model("model")
    client.create_model_version("model", f"{run.info.artifact_uri}/model", run.info.run_id)
    backup(store, tmp_path / "store.tar.zst")
    moved = Store(tmp_path / "a moved one")
    restore(tmp_path / "store.tar.zst", moved)
    shutil.rmtree(store.root)
    client = MlflowClient(moved.tracking_uri)
    assert client.get_experiment(inside).artifact_location == f"{moved.artifacts.as_uri()}/inside"
    assert client.get_experiment(beside).artifact_location == f"{store.artifacts.as_uri()}-beside/x"
    assert client.get_experiment(bucket).artifact_location == "s3://bucket/x"
    assert client.get_model_version("model", "1").source.startswith(moved.artifacts.as_uri())
    assert Path(client.download_artifacts(run.info.run_id, "a/b.txt")).read_text() == "hello"


def refused(archive: Path, folder: Path, words: str) -> None:
    with pytest.raises(SweepsError, match=words) as caught:
        restore(archive, Store(folder))
    assert "\n" not in str(caught.value)
    assert not folder.exists(), "something was restored"


def test_what_is_damaged_is_refused_and_nothing_is_restored(archive: Path, tmp_path: Path) -> None:
    whole = archive.read_bytes()
    refused(tmp_path / "none.tar.zst", tmp_path / "a", ": no such file")
    for length in (0, 1, len(whole) // 2, len(whole) - 10):
        archive.write_bytes(whole[:length])
        refused(archive, tmp_path / "a", "not a backup of a store, or incomplete")
    archive.write_bytes(b"PK" + whole)
    refused(archive, tmp_path / "a", "not a backup of a store, or incomplete")


def rewritten(archive: Path, change: Callable[[tarfile.TarInfo, bytes], tuple[tarfile.TarInfo, bytes] | None]) -> None:
    raw = io.BytesIO(pa.input_stream(str(archive), compression="zstd").read())
    changed = io.BytesIO()
    with tarfile.open(fileobj=raw) as old, tarfile.open(fileobj=changed, mode="w") as new:
        for member in old:
            if (kept := change(member, old.extractfile(member).read())) is not None:  # type: ignore[union-attr]
                kept[0].size = len(kept[1])
                new.addfile(kept[0], io.BytesIO(kept[1]))
    with pa.output_stream(str(archive), compression="zstd") as stream:
        stream.write(changed.getvalue())


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        (
            "changed",
            lambda m, b: (m, b + b" ") if m.name.endswith("plan.json") else (m, b),
            "the checksum of .*plan.json does not match",
        ),
        (
            "missing",
            lambda m, b: None if m.name.endswith("00001.parquet") else (m, b),
            "the checksum of .*00001.parquet does not match",
        ),
        ("cut", lambda m, b: None if m.name == "backup.json" else (m, b), "or incomplete"),
        ("outside", lambda m, b: (m.replace(name=f"../{m.name}"), b), "is not a file of a store"),
        ("absolute", lambda m, b: (m.replace(name=f"/tmp/{m.name}"), b), "is not a file of a store"),
        ("link", lambda m, b: (m.replace(name=m.name), b) and (_link(m), b""), "is not a file of a store"),
    ],
)
def test_an_archive_that_somebody_has_changed_is_refused(
    name: str, change: Callable[..., tuple[tarfile.TarInfo, bytes] | None], words: str, archive: Path, tmp_path: Path
) -> None:
    rewritten(archive, change)
    refused(archive, tmp_path / "a", words)


def _link(member: tarfile.TarInfo) -> tarfile.TarInfo:
    link = tarfile.TarInfo(member.name)
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    return link


def test_nothing_is_overwritten(archive: Path, store: Store, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="exists already; choose a new file"):
        backup(store, archive)
    with pytest.raises(StoreError, match="is not empty; restore into an empty folder"):
        restore(archive, store)
    with pytest.raises(StoreError, match="no such store"):
        backup(Store(tmp_path / "nowhere"), tmp_path / "nowhere.tar.zst")
    with pytest.raises(StoreError, match="no such folder"):
        backup(store, tmp_path / "nowhere.tar.zst", artifacts=tmp_path / "nowhere")
    with pytest.raises(StoreError, match="contains no artifacts"):
        restore(archive, Store(tmp_path / "elsewhere"), artifacts=tmp_path / "served")
    assert not (tmp_path / "nowhere.tar.zst").exists()
    (tmp_path / "volume").mkdir()  # as one that is mounted
    restore(archive, Store(tmp_path / "volume"))
    assert len(Store(tmp_path / "volume").sweeps()) == 1
    assert not list(tmp_path.glob(".*"))


def test_what_is_due_comes_back_as_it_was_at_one_moment(store: Store, tmp_path: Path) -> None:
    known, coming = (Tick("nightly", f"2026-01-0{day}T02:00:00Z") for day in (1, 2))
    table = TickTable(store.schedules_uri)
    table.add(known)
    with closing(sqlite3.connect(store.schedules_database)) as scheduler:
        scheduler.execute("UPDATE ticks SET state = 'half-way'")  # in a transaction that does not end
        backup(store, tmp_path / "a.tar.zst")
    table.add(coming)
    table.close()
    restored = Store(tmp_path / "restored")
    restore(tmp_path / "a.tar.zst", restored)
    again = TickTable(restored.schedules_uri)
    assert again.of("nightly") == [known]
    again.close()


@pytest.mark.slow
def test_what_a_server_keeps_goes_with_the_store(postgres: Cluster, cli: Cli, store: Store, tmp_path: Path) -> None:
    uri = postgres.new_database()
    experiment = MlflowClient(uri).create_experiment("kept")
    served = tmp_path / "served"
    (served / "1" / "run").mkdir(parents=True)
    (served / "1" / "run" / "model.txt").write_text("a model")
    archive = tmp_path / "all.tar.zst"
    cli("backup", archive, "--database", "$THEIRS", "--artifacts", served, THEIRS=uri)
    postgres.execute("CREATE DATABASE restored")
    empty = postgres.uri("restored")
    server = ("--database", "$THEIRS", "--artifacts", tmp_path / "volume")
    said = cli("restore", archive, "--store", tmp_path / "1", *server, THEIRS=empty).stdout
    assert "not restored" not in said
    assert MlflowClient(empty).get_experiment(experiment).name == "kept"
    assert (tmp_path / "volume" / "1" / "run" / "model.txt").read_text() == "a model"
    assert {path.name for path in (tmp_path / "1").iterdir()}.isdisjoint({"database.dump", "server-artifacts"})
    with pytest.raises(StoreError, match=r"volume: is not empty; restore into an empty folder \(--artifacts\)"):
        restore(archive, Store(tmp_path / "2"), artifacts=tmp_path / "volume")
    with pytest.raises(TrackingError, match="the database is not empty") as caught:
        restore(archive, Store(tmp_path / "2"), empty, tmp_path / "taken back")
    assert postgres.password not in str(caught.value)
    assert not (tmp_path / "2").exists()
    assert not list((tmp_path / "taken back").iterdir())
    said = cli("restore", archive, "--store", tmp_path / "3").stdout
    for what in ("database", "artifacts"):
        assert f"not restored: the tracking server's {what} in the archive (restore with --{what})" in said
    wrong = uri.replace(postgres.password, "wrong")
    failed = cli("backup", tmp_path / "no.tar.zst", "--database", "$THEIRS", THEIRS=wrong, code=2)
    [line] = failed.stderr.splitlines()
    assert "password authentication failed" in line
    assert "wrong@" not in line
    assert not list(tmp_path.glob("*no.tar.zst*"))
