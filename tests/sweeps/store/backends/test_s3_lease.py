"""One process at a time works on a sweep on S3: real processes, real kills, a real server."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pytest

from sweeps.errors import SweepHeld
from sweeps.planning.shards import Shard, ShardResult
from sweeps.store.backends import s3_lease, storage_at
from sweeps.store.backends.s3 import S3Storage
from sweeps.store.backends.s3_client import StoredObject
from sweeps.store.store import Store, SweepFiles
from tests.support.processes import until
from tests.support.s3 import S3Server

LAPSES = 3.0
HOLD = """
import sys
from sweeps.store.backends import s3_lease, storage_at
s3_lease.LAPSES_SECONDS = float(sys.argv[2])
with storage_at(sys.argv[1]).lease("it"):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_lease, "LAPSES_SECONDS", LAPSES)


@pytest.fixture
def storage(s3_store: Store) -> S3Storage:
    found = storage_at(f"{s3_store.where}/sweeps/aa11")
    assert isinstance(found, S3Storage)
    return found


@contextmanager
def another_process(where: str, lapses: float = LAPSES) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the lease until it is killed or its input ends."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, where, str(lapses)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_the_second_is_told_who_holds_it_until_that_one_is_dead_for_a_while(storage: S3Storage) -> None:
    with another_process(storage.locate()) as process:
        found = storage.holder()
        assert found is not None
        assert (found.pid, found.host) == (process.pid, socket.gethostname())
        told = rf"^it is held by '-c .*' \(process {process.pid} of .+ since 20.+ killed process expires within 5 s\)"
        with pytest.raises(SweepHeld, match=told), storage.lease("it"):
            pass
        first = storage.get("lease")
        until(lambda: storage.get("lease").etag != first.etag)  # it lives
        assert storage.holder() == found
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert storage.holder() == found
        until(lambda: storage.holder() is None, seconds=LAPSES + 10)
        assert (left := s3_lease._look(storage.lease_object)) is not None
        assert left.age >= LAPSES
        with storage.lease("it"):
            holder = storage.holder()
            assert holder is not None
            assert holder.pid == os.getpid()


def test_whoever_is_done_lets_go_at_once(storage: S3Storage) -> None:
    assert storage.holder() is None
    for _ in range(2):
        with storage.lease("it"), pytest.raises(SweepHeld), storage.lease("it"):
            pass
        assert storage.holder() is None
    assert storage.exists("lease")


def test_of_many_takers_of_a_lapsed_lease_one_wins(storage: S3Storage) -> None:
    forgotten = {"holder": {"host": "h", "pid": 1}, "lapses": -10, "token": "t"}
    storage.put("lease", json.dumps(forgotten).encode())

    def take(_: int) -> s3_lease.Heartbeat | None:
        try:
            return s3_lease.Heartbeat(storage.lease_object, "it")
        except SweepHeld:
            return None

    with ThreadPoolExecutor(8) as pool:
        [winner] = filter(None, pool.map(take, range(8)))
    winner.check()
    winner.end()
    assert storage.holder() is None


def test_who_comes_between_looking_and_taking_wins(storage: S3Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both have seen that nobody holds it; the faster one writes first."""
    look = s3_lease._look
    faster: list[s3_lease.Heartbeat] = []

    def slowly(stored: StoredObject) -> object:
        found = look(stored)
        if not faster:
            monkeypatch.setattr(s3_lease, "_look", look)
            faster.append(s3_lease.Heartbeat(storage.lease_object, "it"))
        return found

    monkeypatch.setattr(s3_lease, "_look", slowly)
    with pytest.raises(SweepHeld, match="it is held by"):
        s3_lease.Heartbeat(storage.lease_object, "it")
    faster[0].check()
    faster[0].end()


def test_a_holder_that_lost_it_writes_no_more(
    s3_store: Store,
) -> None:
    result = ShardResult(Shard(0, 0, 1), pa.table({"trial": [0]}), 0.0)
    files = s3_store.create("aa11", "", {"sweep_id": "aa11", "name": "n"})
    with files.lease():
        files.tracking_record.write({"uri": "before"})
        taken = {"holder": {"host": "elsewhere", "pid": 7, "user": "eve", "since": "now", "command": "sweeps resume"}}
        files._storage.put("lease", json.dumps(taken | {"lapses": 60, "token": "hers"}).encode())  # type: ignore[attr-defined]

        def is_lost() -> bool:
            try:
                files.check_lease()
            except SweepHeld:
                return True
            return False

        until(is_lost)
        told = r"^the lease of sweep aa11 was taken by 'sweeps resume' \(process 7 of eve on elsewhere, since now\)"
        for write in (
            lambda: files.shards.write(result),
            lambda: files.shards.replace(0, result.table),
            lambda: files.tracking_record.write({"uri": "after"}),
            lambda: files.report.writing("report.html").__enter__(),
        ):
            with pytest.raises(SweepHeld, match=told):
                write()
    assert files.shards.done() == set()
    assert files.tracking_record.places() == [{"uri": "before"}]
    holder = SweepFiles(files.where).holder()
    assert holder is not None
    assert holder.pid == 7  # and her lease is not touched


def test_a_holder_that_cannot_say_that_it_lives_stops_before_another_may_take_it(
    storage: S3Storage, s3_server: S3Server
) -> None:
    with storage.lease("it") as lease:
        assert lease is not None
        s3_server.behave(lambda method, path: "403" if method == "PUT" else "")

        def is_lost() -> str:
            try:
                lease.check()
            except SweepHeld as error:
                return str(error)
            return ""

        until(is_lost)
        assert storage.holder() is not None  # for others it is held a little longer
        assert "could not be renewed for 3 s (s3://" in is_lost()
        assert "the server rejects the request: 403" in is_lost()
        s3_server.behave(lambda method, path: "")
        until(lambda: storage.holder() is not None and not is_lost())  # nobody has taken it: it goes on


def test_a_heartbeat_whose_answer_was_lost_is_known_again(storage: S3Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    put, etags = StoredObject.put, []

    def losing(self: StoredObject, *arguments: Any, **options: Any) -> str:
        etags.append(put(self, *arguments, **options))
        if len(etags) in (1, 3):  # of the taking, and of the first heartbeat
            raise s3_lease.ConditionFailed  # as when boto3 repeats the call
        return etags[-1]

    monkeypatch.setattr(StoredObject, "put", losing)
    with storage.lease("it") as lease:
        assert lease is not None
        assert len(etags) == 2
        until(lambda: len(etags) >= 5)
        lease.check()
    assert storage.holder() is None
