"""One conformance suite for stores, in a folder and on S3."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from sweeps.errors import StoreError, SweepHeld
from sweeps.execution.worker import run_shard
from sweeps.planning.prepared import PreparedSweep
from sweeps.planning.shards import ShardFailure, ShardResult
from sweeps.store.store import Store, SweepFiles

Stored = Callable[[PreparedSweep], SweepFiles]
MakePrepared = Callable[..., PreparedSweep]


@pytest.fixture(params=["folder", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return Store(tmp_path / "store") if request.param == "folder" else request.getfixturevalue("s3_store")


class Raw:
    """A sweep's files past the store: the folder's own, or the bucket's by boto3."""

    def __init__(self, files: SweepFiles) -> None:
        where = files.where
        self.folder = None if where.startswith("s3://") else files.folder
        if self.folder is None:
            import boto3

            name, _, self.prefix = where.removeprefix("s3://").partition("/")
            self.bucket = boto3.resource("s3").Bucket(name)

    def read(self, name: str) -> bytes:
        if self.folder is not None:
            return (self.folder / name).read_bytes()
        content: bytes = self.bucket.Object(f"{self.prefix}/{name}").get()["Body"].read()
        return content

    def write(self, name: str, content: bytes) -> None:
        if self.folder is not None:
            (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
            (self.folder / name).write_bytes(content)
        else:
            self.bucket.put_object(Key=f"{self.prefix}/{name}", Body=content)

    def remove(self, name: str) -> None:
        if self.folder is not None:
            (self.folder / name).unlink()
        else:
            self.bucket.Object(f"{self.prefix}/{name}").delete()

    def names(self) -> set[str]:
        if self.folder is not None:
            return {str(path.relative_to(self.folder)) for path in self.folder.rglob("*") if path.is_file()}
        return {entry.key.removeprefix(f"{self.prefix}/") for entry in self.bucket.objects.filter(Prefix=self.prefix)}


def test_a_shard_is_there_or_it_is_not(
    make_prepared: MakePrepared, stored: Stored, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared = make_prepared()
    files = stored(prepared)
    result = run_shard(prepared, prepared.plan.shards()[0])
    assert isinstance(result, ShardResult)
    raw = Raw(files)
    before, names = raw.read("shards/00000.parquet"), raw.names()

    def half_written(table: object, file: Any, **_: object) -> None:
        if isinstance(file, Path):
            file.write_bytes(b"half")
        else:
            file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(pq, "write_table", half_written)
    for write in (lambda: files.shards.write(result), lambda: files.shards.replace(0, result.table)):
        with pytest.raises(StoreError, match=r"00000\.parquet: cannot be written: disk full"):
            write()
    assert raw.names() == names
    assert raw.read("shards/00000.parquet") == before
    assert files.shards.done() == {0, 1, 2}


def test_shards_are_the_same_bytes_wherever_they_are(
    make_prepared: MakePrepared, stored: Stored, tmp_path: Path
) -> None:
    prepared = make_prepared()
    files, folder = stored(prepared), SweepFiles(tmp_path / "other")
    folder.folder.mkdir()
    for shard in prepared.plan.shards():
        result = run_shard(prepared, shard)
        assert isinstance(result, ShardResult)
        folder.shards.write(result)
        name = f"shards/{shard.index:05}.parquet"
        assert Raw(files).read(name) == Raw(folder).read(name)


def test_parts_of_shards_are_read_in_order(make_prepared: MakePrepared, stored: Stored) -> None:
    prepared = make_prepared(execution={"trials_per_shard": 1})
    files = stored(prepared)
    tables = list(files.shards.tables(["trial", "loss"]))
    assert [table["trial"].to_pylist() for table in tables] == [[i] for i in range(12)]
    assert tables[0].column_names == ["trial", "loss"]
    assert list(files.shards.extents(range(12))) == [(i, 1) for i in range(12)]
    whole = [files.shards.read(i) for i in range(12)]
    assert list(files.shards.read_many([5, 3])) == [whole[5], whole[3]]
    assert files.shards.schema(3) == whole[3].schema


def test_missing_shards_are_named_and_their_failures_kept_until_they_are_done(
    make_prepared: MakePrepared, stored: Stored
) -> None:
    prepared = make_prepared()
    files = stored(prepared)
    Raw(files).remove("shards/00001.parquet")
    [missing] = files.shards.missing(prepared.plan.shards())
    assert missing.index == 1
    with files.lease():
        assert files.state() == "running"
    assert files.state() == "interrupted"
    files.shards.write_failure(ShardFailure(missing, "ValueError: no"))
    files.shards.write_failure(ShardFailure(missing, "ValueError: no", tries=3))
    [failure] = files.shards.failures()
    assert (failure.index, str(failure)) == (1, f"{files.where}/failures/00001.txt")
    assert failure.read_text() == "trials 4 to 7: given up after 4 tries\n\nValueError: no"
    assert files.shards.tries(1) == 4
    assert files.state() == "failed"
    result = run_shard(prepared, missing)
    assert isinstance(result, ShardResult)
    files.shards.write(result)
    assert files.shards.failures() == []
    assert files.shards.tries(1) == 0
    assert files.state() == "computed"


MANIFEST = {"sweep_id": "", "name": "n", "created": "2026", "trials": 1, "shards": 1}


def test_a_damaged_sweep_does_not_hide_the_others(store: Store) -> None:
    for sweep_id in ("aa11", "bb22"):
        store.create(sweep_id, "", MANIFEST)
    Raw(store.find("aa")).write("plan.json", b"{}")
    Raw(SweepFiles(f"{store.where}/sweeps/.cc33.new")).write("shards/00000.parquet", b"")
    assert {files.sweep_id: created for files, created in store.survey(lambda files: files.created)} == {
        "bb22": "2026",
        "aa11": "",
    }
    assert [files.sweep_id for files in store.sweeps()] == ["bb22", "aa11"]
    assert store.find("bb").manifest() == MANIFEST
    with pytest.raises(StoreError, match=r"plan\.json: damaged: no created, name"):
        store.find("aa").manifest()


def test_a_store_whose_path_would_cut_the_databases_name(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"must not contain '\?'"):
        Store(tmp_path / "what?")


def test_finding_a_sweep_by_the_start_of_its_id(store: Store) -> None:
    for sweep_id in ("aa11", "aa22", "bb33"):
        store.create(sweep_id, "", MANIFEST | {"created": sweep_id})
    assert store.find("b").sweep_id == "bb33"
    assert store.find("aa2").sweep_id == "aa22"
    assert [files.sweep_id for files in store.sweeps()] == ["bb33", "aa22", "aa11"]
    for prefix, message in (
        ("aa", r"more than one sweep: aa11 \(.*\), aa22 \("),
        ("", "not a sweep id"),
        ("cc", "no such sweep"),
        ("../x", "not a sweep id"),
    ):
        with pytest.raises(StoreError, match=message):
            store.find(prefix)


def test_finding_the_latest_sweep_and_the_latest_of_a_name(store: Store, tmp_path: Path) -> None:
    for sweep_id, name in (("c1", "one two"), ("b2", "one two"), ("a3", "b"), ("a4", "a")):
        store.create(sweep_id, "", MANIFEST | {"name": name, "created": sweep_id[1]})
    store.create("d5", "", MANIFEST | {"created": "9"}).storage.write("plan.json", b"damaged")
    assert store.find("latest").sweep_id == "a4"
    assert store.find("one two").sweep_id == "b2"
    assert store.find("b").sweep_id == "b2"  # ids come before names
    assert store.find("a").sweep_id == "a4"  # an ambiguous prefix, but a name
    with pytest.raises(StoreError, match=r"'two': not a sweep id, nor a name in .*newest sweeps: a4 \(a\), a3 \(b\)"):
        store.find("two")
    with pytest.raises(StoreError, match=r"'latest': no such sweep in the store .*, which is empty"):
        Store(tmp_path / "none").find("latest")


def test_an_empty_store_holds_no_sweeps(store: Store) -> None:
    assert store.sweeps() == []
    with pytest.raises(StoreError, match="which is empty"):
        store.find("a")


def test_a_file_is_no_store(tmp_path: Path) -> None:
    path = tmp_path / "sweep.yaml"
    path.touch()
    with pytest.raises(StoreError, match="not a store, because it is not a folder"):
        Store(path).sweeps()


def test_a_sweep_is_made_once_and_whole(store: Store) -> None:
    files = store.create("aa11", "name: x\n", MANIFEST)
    assert (files.config_yaml(), files.manifest()) == ("name: x\n", MANIFEST)
    assert Store.of(files).where == store.where
    with pytest.raises(SweepHeld, match="another process has just created it"):
        store.create("aa11", "name: y\n", MANIFEST | {"name": "other"})
    assert store.find("aa11").manifest() == MANIFEST
    assert Raw(files).names() == {"config.yaml", "plan.json"}
    assert files.state() == "planned"


def test_where_it_is_logged_is_kept(store: Store) -> None:
    files = store.create("aa11", "", MANIFEST)
    assert (files.tracking_record.first(), files.tracking_record.places()) == ({}, [])
    for record in ({"uri": "a", "complete": False}, {"uri": "b", "complete": True}, {"uri": "a", "complete": True}):
        files.tracking_record.write(record)
    assert files.tracking_record.places() == [{"uri": "a", "complete": True}, {"uri": "b", "complete": True}]


def test_a_report_is_whole_or_as_it_was(store: Store) -> None:
    files = store.create("aa11", "", MANIFEST)
    with files.report.writing("report.html") as file:
        file.write("<p>größer</p>\n")
    with pytest.raises(TypeError), files.report.writing("report.html") as file:
        file.writelines(["half", None])  # type: ignore[list-item]
    assert Raw(files).read("report/report.html").decode() == "<p>größer</p>\n"
    assert files.report.is_written()
    copies = {path.name: (path.is_dir() or path.read_bytes(), folder) for path, folder in files.copies()}
    assert copies["plan.json"] == (Raw(files).read("plan.json"), None)
    assert {folder for _, folder in copies.values()} >= {"report", None}
    files.report.remove("report.html")
    assert not files.report.is_written()


def test_a_store_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="the store cannot be written: Not a directory"):
        Store(tmp_path / "file" / "store").check_writable()


def test_damaged_files_are_told(make_prepared: MakePrepared, stored: Stored) -> None:
    files = stored(make_prepared())
    for content in (b"PAR1", b""):
        Raw(files).write("shards/00000.parquet", content)
        with pytest.raises(StoreError, match=r"00000\.parquet: cannot be read"):
            files.shards.read(0)
    Raw(files).remove("shards/00000.parquet")
    with pytest.raises(StoreError, match=r"00000\.parquet: cannot be read"):
        files.shards.extent(0)
    Raw(files).write("plan.json", b"{")
    with pytest.raises(StoreError, match=r"plan\.json: cannot be read"):
        Store.of(files).find("abcd").manifest()


def test_left_over_pieces_are_not_taken_for_shards(make_prepared: MakePrepared, stored: Stored) -> None:
    files = stored(make_prepared())
    Raw(files).write(f"shards/.00003.parquet.{os.getpid()}.new", b"")
    assert files.shards.done() == {0, 1, 2}


def test_a_sweep_is_removed_with_all_that_is_its_own(store: Store, make_prepared: MakePrepared, stored: Stored) -> None:
    files, other = stored(make_prepared()), store.create("ab11", "", MANIFEST)
    files.write_progress({"computed": 12})
    assert files.progress() == {"computed": 12}
    with files.lease(), pytest.raises(SweepHeld):
        store.remove(SweepFiles(files.where))
    store.remove(files)
    assert [found.sweep_id for found in store.sweeps()] == ["ab11"]
    assert store.get("abcd1234") is None
    assert Raw(other).names() == {"config.yaml", "plan.json"}
    assert Raw(files).names() == set()


@pytest.mark.parametrize("name", ["/proc/self/maps", "/proc/kmsg", "."])
def test_only_regular_files_are_copied_into_it(tmp_path: Path, name: str) -> None:
    home = Store(tmp_path)
    with pytest.raises(StoreError, match="cannot be copied into the store"):
        home.keep_data(Path(name))
    assert not (tmp_path / "data").exists()
