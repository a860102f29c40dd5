"""What Prometheus sees of sweeps: every query of the dashboards, asked of a real one that scrapes a sweep on Ray."""

import json
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from sweeps.execution.ray import RayExecutor
from sweeps.pipeline.run import create, run
from sweeps.planning.prepared import PreparedSweep
from sweeps.service.monitoring.progress_file import report_progress
from sweeps.service.monitoring.prometheus import exposition
from sweeps.store.store import Store, SweepFiles
from tests.support.command_line import Cli
from tests.support.documents import ROOT
from tests.support.doubles import Silent, Untracked
from tests.support.prometheus import Prometheus, private_prometheus, program
from tests.support.serving import served_dashboard

DASHBOARDS = ROOT / "dashboards" / "grafana" / "dashboards"
CONFIG = ROOT / "dashboards" / "prometheus"
DATA_SOURCE = "sweeps-prometheus"


def samples(store: Store) -> dict[str, dict[tuple[str, ...], float]]:
    """Values by name and by sweep_id, sweep and state, as far as there are; read by Prometheus' own parser."""
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for family in text_string_to_metric_families(exposition(store).decode()):
        for sample in family.samples:
            labels = tuple(sample.labels[name] for name in ("sweep_id", "sweep", "state") if name in sample.labels)
            found.setdefault(sample.name, {})[labels] = sample.value
    return found


def test_a_running_sweep_is_told_as_it_says_and_a_finished_one_is_dropped(
    make_prepared: Callable[..., PreparedSweep], stored: Callable[[PreparedSweep], SweepFiles], store: Store
) -> None:
    assert samples(store)["sweeps_store_sweeps"] == {(): 0}
    files = stored(make_prepared(name='a "b" c\\d'))
    label = ("abcd1234", 'a "b" c\\d')
    record = {"computed": 9, "to_compute": 12, "logged": 5, "to_log": 12, "failed": 2, "shards_in_flight": 4}
    now = datetime.now(UTC)
    files.write_progress(record | {"updated": now.isoformat()})
    with files.lease():
        found = samples(store)
    assert found["sweeps_trials_computed_total"] == {label: 9}
    assert found["sweeps_trials_logged_total"] == {label: 5}
    assert found["sweeps_trials_planned"] == {label: 12}
    assert found["sweeps_trials_failed"] == {label: 2}
    assert found["sweeps_shards_in_flight"] == {label: 4}
    assert found["sweeps_tracking_lag_trials"] == {label: 4}
    assert [key[2] for key, value in found["sweeps_sweep_state"].items() if value] == ["running"]
    assert found["sweeps_sweeps"]["running",] == 1

    found = samples(store)  # its process was killed
    assert found["sweeps_shards_in_flight"] == {label: 0}
    assert found["sweeps_trials_computed_total"] == {label: 12}
    assert found["sweeps_sweeps"]["computed",] == 1
    files.write_progress(record | {"updated": (now - timedelta(hours=2)).isoformat()})
    found = samples(store)
    assert found["sweeps_sweeps"]["computed",] == 1
    assert "sweeps_trials_computed_total" not in found

    (files.folder / "plan.json").write_text("{")
    assert samples(store)["sweeps_sweeps"]["damaged",] == 1


def test_it_is_served_to_those_who_only_look(store: Store, cli: Cli) -> None:
    with served_dashboard(store) as address:
        with urllib.request.urlopen(f"{address}/metrics") as answer:
            assert answer.headers["Content-Type"].startswith("text/plain; version=")
            assert answer.read() == exposition(store)
        with pytest.raises(urllib.error.HTTPError, match="405"):
            urllib.request.urlopen(f"{address}/metrics", data=b"x")
    assert cli("metrics").stdout.encode() == exposition(store)


def test_rules_and_configuration_are_valid_and_alerts_come_when_they_should() -> None:
    for arguments in (
        ("check", "config", "prometheus.yml"),
        ("check", "rules", "rules.yml"),
        ("test", "rules", "rules.test.yml"),
    ):
        done = subprocess.run(
            [program("promtool"), *arguments], cwd=CONFIG, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
    tested = (CONFIG / "rules.test.yml").read_text()
    for group in yaml.safe_load((CONFIG / "rules.yml").read_text())["groups"]:
        for rule in group["rules"]:
            assert f"alertname: {rule['alert']}" in tested


def queries() -> list[tuple[str, str, str]]:
    """Every query of every panel, as Grafana would send it: dashboard, panel, expression."""
    found = []
    for path in sorted(DASHBOARDS.glob("*.json")):
        for panel in json.loads(path.read_text())["panels"]:
            assert panel["datasource"]["uid"] == DATA_SOURCE
            for target in panel["targets"]:
                expression = target["expr"].replace("$__rate_interval", "1m")
                assert "$" not in expression
                found.append((path.stem, panel["title"], expression))
    return found


def configured(folder: Path, sweeps: int, ray: int) -> Path:
    """The configuration of the repository, scraping two ports of this machine every second."""
    document = yaml.safe_load((CONFIG / "prometheus.yml").read_text())
    document["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    document["rule_files"] = [str(CONFIG / "rules.yml")]
    ports = {"sweeps": sweeps, "ray": ray}
    for job in document["scrape_configs"]:
        job.pop("file_sd_configs", None)
        job["static_configs"] = [{"targets": [f"127.0.0.1:{ports[job['job_name']]}"]}]
    path = folder / "prometheus.yml"
    path.write_text(yaml.safe_dump(document))
    return path


def answered(server: Prometheus, expression: str, seconds: float = 120) -> list[dict[str, Any]]:
    """The first answer that is not empty."""
    until = time.monotonic() + seconds
    while not (found := server.query(expression)):
        assert time.monotonic() < until, f"no data: {expression}"
        time.sleep(0.2)
    return found


@pytest.mark.slow
def test_every_query_of_the_dashboards_has_data(
    make_prepared: Callable[..., PreparedSweep], store: Store, ray_executor: RayExecutor, tmp_path: Path
) -> None:
    import ray

    [node] = ray.nodes()
    prepared = make_prepared(execution={"trials_per_shard": 1})
    files = create(prepared, store, ray_executor, Untracked(), fresh=True)
    held = Held()

    def sweep() -> None:
        with files.lease():
            run(files, prepared, ray_executor, Untracked(), report_progress(held, files, ray_executor, pytest.fail))

    with (
        served_dashboard(store) as address,
        private_prometheus(
            configured(tmp_path, int(address.rpartition(":")[2]), node["MetricsExportPort"]), tmp_path
        ) as server,
        ThreadPoolExecutor(1) as thread,
    ):
        answered(server, "ray_node_cpu_count")
        running = thread.submit(sweep)
        with closing(held):
            ask(server, files.sweep_id)
        running.result(60)
        answered(server, 'ALERTS{alertname="SweepNotLogged", alertstate="pending"}')  # nobody has published it
        assert server.query('ALERTS{alertstate="firing"}') == []
    assert (tmp_path / "log").read_text() == ""


def ask(server: Prometheus, sweep_id: str) -> None:
    """What a sweep that is at its end, and not over, has told."""
    assert len(queries()) >= 20
    for dashboard, panel, expression in queries():
        assert answered(server, expression), (dashboard, panel)
    for prefix in ("", "ray_"):
        for name, value in (("trials_computed_total", 12), ("trials_logged_total", 12), ("tracking_lag_trials", 0)):
            found = answered(server, f'{prefix}sweeps_{name}{{sweep_id="{sweep_id}"}} == {value}')
            assert [each["metric"]["sweep"] for each in found] == ["small"]


class Held(Silent):
    """A sweep that ends when it is let go."""

    def __init__(self) -> None:
        self.close = (event := threading.Event()).set
        self.end = event.wait


def test_grafana_is_provisioned_with_the_source_and_the_dashboards() -> None:
    provisioning = ROOT / "dashboards" / "grafana" / "provisioning"
    [source] = yaml.safe_load((provisioning / "datasources" / "prometheus.yaml").read_text())["datasources"]
    assert (source["uid"], source["type"]) == (DATA_SOURCE, "prometheus")
    [provider] = yaml.safe_load((provisioning / "dashboards" / "sweeps.yaml").read_text())["providers"]
    assert provider["type"] == "file"
    boards = [json.loads(path.read_text()) for path in DASHBOARDS.glob("*.json")]
    assert len({board["uid"] for board in boards}) == len(boards) == 2
    for board in boards:
        ids = [panel["id"] for panel in board["panels"]]
        assert len(set(ids)) == len(ids)
