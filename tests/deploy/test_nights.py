"""The service without containers, as real processes: sweeps by the clock, on two Ray nodes, tracked behind locked doors
on PostgreSQL, held against last night's, and seen on the dashboard; every part is killed and comes back.
"""

import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
import requests

from sweeps.config import strict_yaml
from sweeps.service.schedule.tick_table import DONE, Tick, TickTable
from sweeps.store.store import Store, SweepFiles
from tests.deploy.conftest import BIN, ServiceStack
from tests.support.browser import Browser
from tests.support.command_line import Cli
from tests.support.documents import document
from tests.support.hypothesis_profiles import NIGHTLY
from tests.support.postgres import Cluster
from tests.support.processes import Part, answers, free_port, until
from tests.support.ray_head import RayHead, private_head

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

TRIALS = 240
SWEEP = document(
    name="night",
    parameters={"lr": {"min": 0.001, "max": 0.06, "count": TRIALS // 2}, "momentum": {"values": [0, 0.9]}},
    training={"epochs": 40},
    execution={"trials_per_shard": 10},
)
LONG = SWEEP | {"training": {"epochs": 1_000_000}, "name": "long"}  # some seconds of two cores, in 24 shards


class Service:
    """All of it, and a command line outside of it."""

    def __init__(self, service_stack: ServiceStack, head: RayHead, folder: Path) -> None:
        """The scheduler and the dashboard are not started yet."""
        self.service_stack, self.head, self.store, self.folder = service_stack, head, Store(head.store), folder
        self.sweep, self.schedules = folder / "sweep.yaml", folder / "schedules.yaml"
        entry = {"config": "sweep.yaml", "address": "$SWEEPS_CLUSTER", "overlap": "queue", "fresh": True}
        last = datetime.now(UTC) - timedelta(hours=12)
        nightly = entry | {"name": "nightly", "cron": f"{last.minute} {last.hour} * * *"}
        nightly |= {"misfire": {"catch_up": "all"}, "check": {"max_loss_increase": "1%"}}
        by_hand = entry | {"name": "by-hand", "cron": "0 0 29 2 *", "config": "long.yaml"}
        self.schedules.write_text(strict_yaml.write({"schedules": [nightly, by_hand]}))
        self.sweep.write_text(strict_yaml.write(SWEEP))
        (folder / "long.yaml").write_text(strict_yaml.write(LONG))
        self.page = f"http://127.0.0.1:{(port := free_port())}"
        environment = {
            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
            "HOME": str(folder),
            "SWEEPS_STORE": str(head.store),
            "SWEEPS_CLUSTER": head.address,
            "SWEEPS_DASHBOARD_USERS_FILE": str(service_stack.secrets / "dashboard_users"),
            **{name: value for name, value in head.environment.items() if name.startswith("RAY_AUTH")},
        }
        log = folder / "scheduler.log"
        command = [BIN / "sweeps", "schedule", "run", self.schedules]
        self.scheduler = Part(command, environment, log, lambda: "ticks are kept in" in log.read_text())
        key = service_stack.secrets / "dashboard_session_key"
        command = [BIN / "sweeps", "dashboard", "--port", str(port), "--secret-key-file", key]
        ready = f"{self.page}/healthz"
        self.dashboard = Part(command, environment, folder / "dashboard.log", lambda: answers(ready))
        self.cli = Cli(folder)
        self.store.check_writable()
        self.table = TickTable(self.store.schedules_uri)

    def trigger(self, schedule: str) -> Tick:
        """What somebody has run now, who operates the service."""
        options = ("--file", self.schedules, "--store", self.head.store)
        environment = self.head.environment | {"SWEEPS_CLUSTER": self.head.address}
        self.cli("schedule", "trigger", schedule, *options, **environment)
        return self.table.of(schedule, newest=1)[0]

    def done(self, schedule: str, count: int) -> list[Tick]:
        """The ticks of a schedule, the newest first, once so many are done."""

        def enough() -> list[Tick]:
            assert self.scheduler.process is not None
            assert self.scheduler.process.poll() is None, self.scheduler.log.read_text()
            ticks = self.table.of(schedule, DONE)
            return ticks[::-1] if len(ticks) >= count else []

        return until(enough)

    def log_in(self, user: str = "sweeps", password: str | None = None) -> requests.Session:
        """A browser's session with the dashboard."""
        session = requests.Session()
        secret = self.service_stack.secret("dashboard") if password is None else password
        session.post(f"{self.page}/login", data={"name": user, "password": secret, "next": "/"}, timeout=60)
        return session

    def runs(self, name: str) -> list[dict[str, dict[str, str]]]:
        """The tags of an experiment's runs, as MLflow's viewer sees them."""
        viewer = ("viewer", self.service_stack.secret("mlflow_viewer"))
        where = f"{self.service_stack.uri}/api/2.0/mlflow"
        known = requests.get(
            f"{where}/experiments/get-by-name", {"experiment_name": name}, auth=viewer, timeout=60
        ).json()
        asked = {"experiment_ids": [known["experiment"]["experiment_id"]], "max_results": 5000}
        found = requests.post(f"{where}/runs/search", json=asked, auth=viewer, timeout=60).json()["runs"]
        return [{tag["key"]: tag["value"] for tag in run["data"].get("tags", [])} for run in found]

    def where_shards_ran(self) -> set[str]:
        """The nodes on which Ray says that shards were computed."""
        token = {"Authorization": f"Bearer {self.head.token}"}
        asked = {"limit": "10000", "detail": "1"}
        answer = requests.get(f"{self.head.address}/api/v0/tasks", asked, headers=token, timeout=60).json()
        tasks = answer["data"]["result"]["result"]
        return {task["node_id"] for task in tasks if task["name"] == "run_shard" and task["state"] == "FINISHED"}


@pytest.fixture(scope="module")
def service(service_stack: ServiceStack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A head that computes nothing, two nodes of a core each, and no scheduler for two days."""
    database = {"SWEEPS_TRACKING_DATABASE": service_stack.database("sweeps_writer")}
    with private_head(0, **service_stack.login("sweeps"), **database) as head:
        whole = Service(service_stack, head, tmp_path_factory.mktemp("nights"))
        for _ in range(2):
            head.add(cores=1)
        whole.table.filled_until("nightly", datetime.now(UTC) - timedelta(days=2))
        try:
            for part in (whole.scheduler, whole.dashboard):
                part.start()
            yield whole
        finally:
            for part in (whole.scheduler, whole.dashboard):
                part.end()
            whole.table.close()


def whole_and_logged_once(service: Service, sweep_id: str, sample: int = 3) -> SweepFiles:
    """The audit of a sweep is clean, with some trials done again by torch, and MLflow has every trial once."""
    files = service.store.find(sweep_id)
    database = {"SWEEPS_TRACKING_DATABASE": service.service_stack.database("sweeps_writer")}
    login = service.service_stack.login("sweeps")
    service.cli("verify", sweep_id, "--store", service.head.store, "--sample", sample, **login, **database)
    tags = [tags for tags in service.runs(files.manifest()["name"]) if tags.get("sweeps.sweep_id") == sweep_id]
    trials = [its["sweeps.trial_id"] for its in tags if "sweeps.trial_id" in its]
    assert len(trials) == len(set(trials)) == TRIALS
    assert sum(its.get("sweeps.kind") == "sweep" for its in tags) == 1
    return files


def test_the_nights_that_no_scheduler_saw_run_on_both_nodes_and_are_held_against_each_other(
    service: Service, browser: Browser
) -> None:
    tonight, last_night = service.done("nightly", 2)[:2]
    assert [(tick.outcome, tick.exit_code) for tick in (tonight, last_night)] == [("ok", 0)] * 2
    assert len(service.where_shards_ran()) == 2
    for tick, sample in ((last_night, 0), (tonight, 3)):
        files = whole_and_logged_once(service, tick.sweep_id, sample)
        assert files.manifest()["tags"] == {"schedule": "nightly", "scheduled_at": tick.scheduled_at}
        assert files.tracking_record.first()["writer"] == "bulk"

    def look(page: Any) -> tuple[str, set[str]]:
        page.goto(f"{service.page}/history")
        page.fill("input[name=name]", "sweeps")
        page.fill("input[name=password]", service.service_stack.secret("dashboard"))
        page.click("button[type=submit]")
        page.wait_for_selector("#history-figure .main-svg")
        ids = page.locator("#history table code").all_text_contents()
        return page.locator("#history h2").first.inner_text(), set(ids)

    name, shown = browser.see(look)
    assert name == "night"
    assert shown == {tonight.sweep_id, last_night.sweep_id}


def test_no_port_lets_in_who_has_no_or_a_wrong_secret(service: Service) -> None:
    for path in ("/api/jobs/", "/api/version", "/api/v0/tasks", "/nodes?view=summary"):
        assert requests.get(f"{service.head.address}{path}", timeout=60).status_code == 401, path
        wrong = {"Authorization": f"Bearer {'0' * 32}"}
        assert requests.get(f"{service.head.address}{path}", headers=wrong, timeout=60).status_code == 403, path
    wrong = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 32}
    for command in (
        ("submit", service.sweep, "--address", service.head.address),
        ("run", service.sweep, "--address", service.head.gcs),  # as a driver
    ):
        [line] = service.cli(*command, code=2, **wrong).stderr.splitlines()
        assert "token" in line
    searched = f"{service.service_stack.uri}/ajax-api/2.0/mlflow/experiments/search"
    for login in (None, ("viewer", "wrong"), ("admin", "password1234")):
        assert requests.get(searched, auth=login, timeout=60).status_code == 401
    for path in ("/", "/_dash-layout", "/metrics", f"/sweeps/{service.store.sweeps()[0].sweep_id}/report.html"):
        assert requests.get(f"{service.page}{path}", timeout=60, allow_redirects=False).status_code in (302, 401), path
        with service.log_in(password="wrong") as session:
            answer = session.get(f"{service.page}{path}", timeout=60, allow_redirects=False)
            assert answer.status_code in (302, 401), path
    with service.log_in() as session:
        assert session.get(f"{service.page}/_dash-layout", timeout=60).status_code == 200
    uri = service.service_stack.database("mlflow").replace(service.service_stack.secret("postgres_mlflow"), "wrong")
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(uri)


LOST = ["a node, the dashboard, PostgreSQL and MLflow", "the head and the scheduler"]


@pytest.mark.parametrize("lost", LOST if NIGHTLY else ["every part"])
def test_what_is_killed_while_a_sweep_runs_comes_back_and_the_sweep_is_whole(service: Service, lost: str) -> None:
    """Killed once the sweep has begun; what watches over the service, here the test, starts it again."""
    head, nodes, service_stack = service.head.part, service.head.nodes, service.service_stack
    parts: dict[str, list[Part | Cluster]] = {
        LOST[0]: [service_stack.postgres, service_stack.mlflow, nodes[0], service.dashboard],
        LOST[1]: [head, *nodes, service.scheduler],  # nodes end without their head
    }
    parts["every part"] = [*parts[LOST[0]][:2], *parts[LOST[1]], service.dashboard]
    before = len(service.table.of("by-hand"))
    tick = service.trigger("by-hand")
    until(lambda: (files := service.store.get(tick.sweep_id)) is not None and len(files.shards.done()) >= 2)
    assert len(service.store.find(tick.sweep_id).shards.done()) < 24, "too fast for this test"
    for part in parts[lost]:
        part.kill()
    for part in parts[lost]:
        part.start()
    [ended, *_] = service.done("by-hand", before + 1)
    if ended.outcome != "ok":  # what could not be tracked: the store has it all, and whoever is told resumes
        assert service_stack.postgres in parts[lost]
        assert ended.exit_code == 5
        environment = service.service_stack.login("sweeps") | {
            "SWEEPS_TRACKING_DATABASE": service.service_stack.database("sweeps_writer")
        }
        service.cli("resume", tick.sweep_id, "--executor", "inline", "--store", service.head.store, **environment)
    whole_and_logged_once(service, tick.sweep_id, sample=0)
    with service.log_in() as session:
        metrics = session.get(f"{service.page}/metrics", timeout=60).text
    assert f'sweeps_trials_logged_total{{sweep="long",sweep_id="{tick.sweep_id}"}} {TRIALS}.0' in metrics
