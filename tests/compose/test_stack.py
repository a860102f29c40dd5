"""The service in containers: what is open, a sweep from outside, every part killed, a backup restored, in order."""

import json
from pathlib import Path

import pytest
import requests
import yaml

from tests.compose.conftest import Stack
from tests.support.documents import ROOT, document
from tests.support.processes import until

pytestmark = pytest.mark.timeout(3600)

SERVICES = {"postgres": 1, "mlflow": 1, "ray-head": 1, "ray-worker": 2, "scheduler": 1, "dashboard": 1}
TRIALS = 3000
_PATIENCE = 600  # seconds, for whatever has to happen


@pytest.fixture(scope="session")
def long_sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep of many shards and some seconds."""
    path = tmp_path_factory.mktemp("long") / "sweep.yaml"
    changes = {
        "name": "long",
        "parameters": {
            "lr": {"min": 1e-4, "max": 0.1, "count": TRIALS // 2, "scale": "log"},
            "momentum": {"values": [0, 0.9]},
        },
        "execution": {"trials_per_shard": 25},
        "tracking": {"trials": "all"},
    }
    path.write_text(yaml.safe_dump(document(**changes)))
    return path


def test_all_is_healthy(stack: Stack) -> None:
    found = stack.containers()
    assert {name: sum(c["Service"] == name for c in found) for name in SERVICES} == SERVICES
    assert len(found) == sum(SERVICES.values())
    assert {(c["State"], c["Health"]) for c in found} == {("running", "healthy")}


def test_three_ports_are_open_and_on_loopback(stack: Stack) -> None:
    published = {
        (port["URL"], port["PublishedPort"])
        for container in stack.containers()
        for port in container["Publishers"] or []
        if port["PublishedPort"]
    }
    assert published == {("127.0.0.1", int(port)) for port in stack.ports.values()}


def test_nobody_gets_in_without_a_login(stack: Stack) -> None:
    for address in (f"{stack.mlflow}/", f"{stack.mlflow}/api/2.0/mlflow/experiments/search", f"{stack.mlflow}/metrics"):
        assert requests.get(address, timeout=60).status_code == 401, address
    for path in ("/api/jobs/", "/api/version", "/nodes?view=summary"):
        assert requests.get(f"{stack.ray}{path}", timeout=60).status_code == 401, path
        wrong = {"Authorization": "Bearer " + "0" * 64}
        assert requests.get(f"{stack.ray}{path}", headers=wrong, timeout=60).status_code == 403, path
    answer = requests.get(f"{stack.dashboard}/", timeout=60, allow_redirects=False)
    assert answer.status_code in (302, 401)
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64}
    refused = stack.cli("submit", ROOT / "configs" / "seed.yaml", "--address", stack.ray, code=2, **token)
    assert "token" in refused.stderr


def test_containers_have_no_rights(stack: Stack) -> None:
    for service in SERVICES:
        assert int(stack.compose("exec", "-T", service, "id", "-u")) > 0
        stack.compose("exec", "-T", service, "sh", "-c", "! touch /mine /usr/mine 2>/dev/null")
        status = stack.compose("exec", "-T", service, "cat", "/proc/self/status")
        assert "CapEff:\t0000000000000000" in status, service
        assert "NoNewPrivs:\t1" in status, service
    # The inner network has no way out.
    reach = "import socket; socket.create_connection(('1.1.1.1', 53), 3)"
    stack.compose("exec", "-T", "ray-worker", "python", "-c", reach, code=1)


def test_a_sweep_is_submitted_from_outside(stack: Stack) -> None:
    said = stack.submit(ROOT / "configs" / "seed.yaml", "--wait")
    assert "computed 4 of 4" in said
    assert "writer:   bulk" in said
    assert "exists already" in stack.submit(ROOT / "configs" / "seed.yaml")
    runs = stack.runs("seed")
    tags = [{tag["key"]: tag["value"] for tag in run["data"]["tags"]} for run in runs]
    [parent] = [run for run, its in zip(runs, tags, strict=True) if its.get("sweeps.kind") == "sweep"]
    assert sum(its.get("mlflow.parentRunId") == parent["info"]["run_id"] for its in tags) == 4
    assert parent["info"]["status"] == "FINISHED"


def test_the_dashboard_shows_it_to_who_logs_in(stack: Stack) -> None:
    login = {"name": "sweeps", "password": stack.secret("dashboard"), "next": "/"}
    with requests.Session() as browser:
        assert browser.post(f"{stack.dashboard}/login", data={**login, "password": "x"}, timeout=60).status_code == 401
        assert browser.post(f"{stack.dashboard}/login", data=login, timeout=60).status_code == 200
        assert browser.get(f"{stack.dashboard}/_dash-layout", timeout=60).status_code == 200


def test_the_schedules_are_known(stack: Stack) -> None:
    said = stack.compose(
        "exec", "-T", "scheduler", "sweeps", "schedule", "list", "/etc/sweeps/deploy/compose/schedules.yaml"
    )
    assert "nightly" in said


@pytest.mark.parametrize("service", ["ray-worker", "ray-head", "mlflow", "postgres"])
def test_what_is_killed_comes_back_and_the_sweep_is_whole(stack: Stack, long_sweep: Path, service: str) -> None:
    """Kill a part while a sweep runs: it comes back by itself, and the same submission finishes what is missing."""
    # Other epochs make other trials, or those of the sweep before would be taken.
    options = ("--set", f"name=without-{service}", "--set", f"training.epochs={20_000 + len(service)}")
    sweep_id = json.loads(stack.submit(long_sweep, *options, "--json"))["sweep"]
    count = f"ls /store/sweeps/{sweep_id}/shards 2>/dev/null | wc -l"
    until(lambda: int(stack.compose("exec", "-T", "ray-head", "sh", "-c", count)) >= 3, _PATIENCE, pause=1)
    began = stack.started(service)
    stack.crash(service)
    until(lambda: stack.started(service) != began and stack.is_healthy(), _PATIENCE, pause=1)
    stack.submit(long_sweep, *options, "--wait")
    assert_whole(stack, f"without-{service}")


def assert_whole(stack: Stack, experiment: str) -> None:
    """Every trial is there, once."""
    tags = [{tag["key"]: tag["value"] for tag in run["data"]["tags"]} for run in stack.runs(experiment)]
    trials = [its["sweeps.trial_id"] for its in tags if "sweeps.trial_id" in its]
    assert len(trials) == len(set(trials)) == TRIALS
    assert sum(its.get("sweeps.kind") == "sweep" for its in tags) == 1


def test_a_backup_brings_back_what_is_lost(stack: Stack) -> None:
    operate = ("--profile", "operator", "run", "--rm", "operator", "sweeps")
    server = ("--database", "postgresql://mlflow@postgres/mlflow", "--artifacts", "/artifacts")
    stack.compose(*operate, "backup", "/backups/all.tar.zst", *server)
    before = sorted(run["info"]["run_id"] for run in stack.runs("seed"))

    stack.compose("down")
    for volume in ("postgres", "store", "artifacts"):
        stack.engine.volumes.get(f"{stack.name}_{volume}").remove()
    stack.up("postgres")
    stack.compose(*operate, "restore", "/backups/all.tar.zst", *server)
    stack.up()

    # The new cluster knows no jobs; the sweep is the same one, and whole, so nothing is computed or logged again.
    stack.submit(ROOT / "configs" / "seed.yaml", "--wait")
    assert sorted(run["info"]["run_id"] for run in stack.runs("seed")) == before
    assert "seed" in stack.compose(*operate, "list")
