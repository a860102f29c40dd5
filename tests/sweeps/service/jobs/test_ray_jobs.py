"""Jobs on a real Ray head with a token: submitted twice is once, exit codes come home, what was killed goes on."""

import json
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sweeps.pipeline.factories import tracker_for
from sweeps.service.jobs.ray_jobs import CANCELLED, FAILED, RUNNING, SUCCEEDED, Cluster, Job, _Seen
from sweeps.store.store import Store, SweepFiles
from sweeps.verification.audit import verify
from sweeps.verification.differences import Difference
from tests.support.command_line import Cli
from tests.support.hypothesis_profiles import NIGHTLY
from tests.support.processes import until
from tests.support.ray_head import RayHead, private_head


@pytest.fixture(scope="module")
def head() -> Iterator[RayHead]:
    with private_head() as running:
        yield running


@pytest.fixture
def remote(cli: Cli, head: RayHead) -> Callable[..., Any]:
    """The command line on a laptop that knows the cluster's address and token, and has no store."""
    return lambda *arguments, code=0: cli(*arguments, code=code, SWEEPS_STORE="/nowhere", **head.environment)


def differences(files: SweepFiles, sample: int = 3) -> list[Difference]:
    """Of store, plan, MLflow and torch.optim.SGD."""
    return verify(files, tracker_for(Store.of(files), None, files), sample).differences


@pytest.mark.slow
def test_submitted_twice_is_one_job(
    remote: Callable[..., Any], cli: Cli, head: RayHead, config: Callable[..., Path], tmp_path: Path
) -> None:
    (tmp_path / "points.csv").write_text("x,y\n1,2\n2,3\n3,5\n4,4\n")
    dataset = {"kind": "csv", "path": "points.csv", "target": "y"}
    path = config(name="once", task={"dataset": dataset, "model": {"kind": "linear"}})
    both = [
        cli.start("submit", path, "--wait", "--tag", "team=a", SWEEPS_STORE="/nowhere", **head.environment)
        for _ in range(2)
    ]
    told = [process.communicate(timeout=300) for process in both]
    assert [process.returncode for process in both] == [0, 0], told
    firsts = sorted(out.splitlines()[0] for out, _ in told)
    assert "exists already" in firsts[0]
    assert firsts[1].startswith("submitted once-")
    assert all("computed 12 of 12" in out for out, _ in told)
    [job] = [row for row in json.loads(remote("jobs", "--json").stdout) if row["name"] == "once"]
    assert (job["state"], job["exit code"], job["attempt"]) == (SUCCEEDED, 0, 1)
    again = remote("submit", path, "--wait").stdout
    assert f"{job['id']} exists already: succeeded" in again
    assert "computed 12 of 12" in remote("logs", "once").stdout
    # The data was sent along, and stays with the sweep.
    files = Store(head.store).find(job["sweep"])
    assert files.manifest()["tags"] == {"team": "a"}
    [kept] = (head.store / "data").iterdir()
    assert kept.read_text() == (tmp_path / "points.csv").read_text()
    assert differences(files) == []


@pytest.mark.slow
def test_a_killed_and_a_cancelled_job_are_gone_on_with(
    remote: Callable[..., Any], cli: Cli, head: RayHead, config: Callable[..., Path]
) -> None:
    shards, per_shard = 28, 1024
    path = config(
        name="long",
        training={"epochs": 200_000},
        parameters={"lr": {"min": 0.001, "max": 0.02, "count": shards * per_shard}},
        record={"points": 2},
        execution={"trials_per_shard": per_shard},
        tracking={"trials": "none"},
    )
    store = Store(head.store)

    def found() -> SweepFiles | None:
        return next((files for files in store.sweeps() if files.manifest()["name"] == "long"), None)

    def job() -> dict[str, Any]:
        rows = json.loads(remote("jobs", "--json").stdout)
        return next(row for row in rows if row["name"] == "long")  # the newest attempt

    # Killed: whoever waits is told, and submitting again goes on.
    waiting = cli.start("submit", path, "--wait", SWEEPS_STORE="/nowhere", **head.environment)
    until(lambda: (files := found()) and files.shards.done())
    files = found()
    assert files is not None
    holder = files.holder()
    assert holder is not None
    os.kill(holder.pid, signal.SIGKILL)
    out, err = waiting.communicate(timeout=240)
    assert waiting.returncode == 3, (out, err)
    job_id = out.split()[1]
    assert f"{job_id}: failed, exit code 137" in out  # 128 + SIGKILL, of the driver's parent
    before = len(files.shards.done())
    assert before < shards

    # Ctrl-C ends the waiting, not the job; cancel ends the job.
    waiting = cli.start("submit", path, "--wait", SWEEPS_STORE="/nowhere", **head.environment)
    until(lambda: len(files.shards.done()) > before)
    waiting.send_signal(signal.SIGINT)
    out, err = waiting.communicate(timeout=240)
    assert waiting.returncode == 130
    assert f"submitted {job_id}-2 (sweep {files.sweep_id}, attempt 2: resumes from the store)" in out
    follow = f"follow it with: sweeps logs {job_id}-2 --address {head.address} --follow"
    assert f"interrupted; {job_id}-2 keeps running; {follow}" in err
    assert f"{job_id}-2: stopping" in remote("cancel", "long").stdout
    until(lambda: job()["state"] == CANCELLED)
    assert (job()["id"], job()["exit code"]) == (f"{job_id}-2", 130)
    before = len(files.shards.done())
    assert before < shards

    third = remote("submit", path, "--wait").stdout
    assert f"sweep {files.sweep_id} is in the store; resuming it" in third
    left = (shards - before) * per_shard
    assert f"computed {left:,} of {left:,}" in third
    assert differences(files, sample=0) == []


@pytest.mark.slow
def test_exit_codes_come_home(remote: Callable[..., Any], config: Callable[..., Path]) -> None:
    wrong = {"case": "no", "where": {"lr": 0.01}, "final": {"weight": 99.0}}
    out = remote("submit", config(name="checked", expected=[wrong]), "--submission-id", "mine", "--wait", code=4).stdout
    assert "error: not as expected: no" in out
    assert "failed, exit code 4" in out
    if NIGHTLY:
        missing = {"dataset": {"kind": "csv", "path": "/not/there.csv", "target": "y"}, "model": {"kind": "linear"}}
        out = remote("submit", config(name="missing", task=missing), "--wait", code=2).stdout
        assert "/not/there.csv: no such file" in out
    [line] = remote("submit", config(name="other"), "--submission-id", "mine", code=2).stderr.splitlines()
    assert "mine: the cluster has a job with this id but another config or data" in line


@pytest.mark.slow
def test_a_cluster_that_refuses_or_is_not_there_is_one_line(cli: Cli, head: RayHead) -> None:
    none = dict.fromkeys(("RAY_AUTH_MODE", "RAY_AUTH_TOKEN"), "")
    for environment, told in (
        ({"RAY_AUTH_TOKEN": "0" * 32, "RAY_AUTH_MODE": "token"}, "rejects the request: the token is wrong"),
        (none | {"RAY_AUTH_MODE": "disabled"}, "rejects the request: it requires a token"),
    ):
        [line] = cli("jobs", "--address", head.address, code=2, **environment).stderr.splitlines()
        assert told in line
        assert "RAY_AUTH_TOKEN_PATH" in line
    [line] = cli("jobs", "--address", "http://127.0.0.1:1", code=2).stderr.splitlines()
    assert line.startswith("error: http://127.0.0.1:1: the cluster cannot be reached")
    [line] = cli("jobs", "--address", "ftp://me:secret@host", code=2).stderr.splitlines()
    assert line == "error: --address ftp://me:***@host: must be a Jobs API address, such as http://HOST:8265"


def test_exit_codes() -> None:
    moment = datetime.now(UTC)
    job = Job("a", "a", 1, "ab", "n", "d", FAILED, 4, "", moment, moment)
    for state, code, expected in (
        (SUCCEEDED, 0, 0),
        (FAILED, 4, 4),
        (FAILED, 130, 130),
        (FAILED, -9, 3),
        (FAILED, 127, 3),
        (FAILED, None, 3),
        (CANCELLED, None, 130),
        (RUNNING, None, None),
    ):
        assert replace(job, state=state, code=code).exit_code == expected
    assert "'sweeps' is not installed on the cluster" in replace(job, code=127).outcome
    assert replace(job, code=None, message="no node\nmore").outcome == "failed before it ran: no node"


def test_ids_may_be_shortened_and_stand_for_the_newest_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = [
        Job(job_id, base, attempt, "ab", "n", "d", FAILED, 3, "", None, None)
        for job_id, base, attempt in (("abc-1", "abc-1", 1), ("abc-1-2", "abc-1", 2), ("abd", "abd", 1))
    ]
    cluster = Cluster("127.0.0.1:1")
    monkeypatch.setattr(Cluster, "jobs", lambda _: jobs)
    assert cluster.find("abc-1").job_id == "abc-1-2"
    assert cluster.find("abc").job_id == "abc-1-2"
    assert cluster.find("abc-1-2").job_id == "abc-1-2"
    assert cluster.find("abd").job_id == "abd"
    for prefix, told in (("ab", "more than one job: abc-1-2, abd"), ("x", "no such job at http://127.0.0.1:1")):
        with pytest.raises(Exception, match=told):
            cluster.find(prefix)


OURS = {
    "sweeps.submission_id": "mine-1",
    "sweeps.attempt": "1",
    "sweeps.sweep_id": "ab",
    "sweeps.name": "mine",
    "sweeps.digest": "d",
}


def _details(metadata: object, status: str = "RUNNING", job_id: str | None = "mine-1") -> SimpleNamespace:
    facts = {"driver_exit_code": None, "message": None, "start_time": None, "end_time": None}
    return SimpleNamespace(metadata=metadata, status=SimpleNamespace(value=status), submission_id=job_id, **facts)


FOREIGN = [
    None,
    {},
    *({key: value for key, value in OURS.items() if key != left_out} for left_out in OURS),
    *(OURS | {"sweeps.attempt": attempt} for attempt in ("", "one", "0", "-1", "1e3", "９")),
    OURS | {"sweeps.sweep_id": "not hexadecimal"},
    OURS | {"sweeps.name": ""},
]


def test_jobs_of_others_are_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    known = [_details(metadata, job_id=f"theirs-{number}") for number, metadata in enumerate(FOREIGN)]
    known += [_details(OURS, job_id=None), _details(OURS, status="UNHEARD_OF"), _details(OURS)]
    monkeypatch.setattr(Cluster, "_client", SimpleNamespace(list_jobs=lambda: known))
    [job] = Cluster("127.0.0.1:1").jobs()
    assert (job.job_id, job.submission_id, job.attempt, job.sweep_id, job.state) == (
        "mine-1",
        "mine-1",
        1,
        "ab",
        RUNNING,
    )


def test_a_text_told_again_is_passed_on_once() -> None:
    out: list[str] = []
    seen = _Seen(out.append)
    seen("one\n")
    seen.restart()  # the connection was lost
    seen("on")
    seen("e\ntwo\n")
    seen.restart()
    seen("one\ntwo\nthree\n")
    assert "".join(out) == "one\ntwo\nthree\n"
