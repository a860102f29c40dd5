"""MLflow's own UI in a real browser: the sweep's run, its note, report, verdicts and model; names stay names."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow import MlflowClient
from mlflow.entities import Experiment, Run

from sweeps.config.loader import parse
from sweeps.execution.inline import InlineExecutor
from sweeps.pipeline.publish import publish
from sweeps.pipeline.run import create, run
from sweeps.planning.prepared import PreparedSweep, prepare
from sweeps.report.files import write_report
from sweeps.results.results import load_results
from sweeps.store.store import Store
from sweeps.tracking.mlflow.server.ui import serve
from sweeps.tracking.mlflow.tracker import MlflowTracker
from tests.support.browser import Browser
from tests.support.documents import document
from tests.support.doubles import Silent

HOSTILE = "<img src=x onerror='window.ran = 1'> <b>bold</b> [x](javascript:alert(1))"
MATCHING = re.compile(r"[1-9]\d* matching runs?")  # none while it asks
pytestmark = pytest.mark.slow


@dataclass
class Tracked:
    """A sweep in MLflow."""

    store: Store
    experiment: Experiment
    parent: Run
    children: list[Run]

    @property
    def client(self) -> MlflowClient:
        return MlflowClient(self.store.tracking_uri)


@pytest.fixture(scope="module")
def tracked(tmp_path_factory: pytest.TempPathFactory, migrated_database: Path) -> Tracked:
    store = Store(tmp_path_factory.mktemp("tracked") / "store")
    store.check_writable()
    shutil.copy(migrated_database, store.root / "mlflow.db")
    changes = document(
        name=HOSTILE,
        description=HOSTILE,
        training={"epochs": 30},
        tracking={"model": "best", "register": True},
        parameters={"lr": {"values": [0.01, 0.02, 0.03, 10]}, "momentum": {"values": [0, 0.5, 0.9]}},
    )
    prepared = prepare(parse(changes, "test.yaml"))
    tracker = MlflowTracker(store.tracking_uri, store.artifacts)
    files = create(prepared, store, InlineExecutor(), tracker)
    outcome = run(files, prepared, InlineExecutor(), tracker, Silent())
    write_report(load_results(files))
    publish(outcome, tracker)
    assert outcome.tracking_error is None
    client = MlflowClient(store.tracking_uri)
    experiment = client.get_experiment_by_name(HOSTILE)
    runs = client.search_runs([experiment.experiment_id])
    [parent] = [one for one in runs if "sweeps.kind" in one.data.tags]
    return Tracked(store, experiment, parent, [one for one in runs if one is not parent])


@pytest.fixture
def ui(tracked: Tracked) -> Iterator[str]:
    with serve(tracked.store, 0) as (address, _):
        yield address


def test_the_parent_run_explains_the_sweep_and_shows_it(tracked: Tracked, ui: str, browser: Browser) -> None:
    experiment, parent = tracked.experiment.experiment_id, tracked.parent.info.run_id
    base = f"{ui}/#/experiments/{experiment}"
    training = "?workflowType=machine_learning"
    diverged = [one for one in tracked.children if one.data.tags["sweeps.verdict"] == "diverged"]

    def look(page: Any) -> dict[str, Any]:
        found: dict[str, Any] = {}
        page.goto(f"{base}/runs/{parent}{training}")
        page.get_by_text("Show more").click()
        page.get_by_role("heading", name="Best trials").wait_for()
        found["note"] = page.locator("body").inner_text()
        found["links"] = page.locator("a").evaluate_all("links => links.map(link => link.getAttribute('href'))")
        link = page.get_by_role("link", name="report.html").get_attribute("href")
        page.goto(f"{ui}/{link}")
        report = page.frame_locator("iframe").first
        report.locator("#figure-map .main-svg").first.wait_for()
        found["lead"] = report.locator(".lead").first.inner_text()
        page = page.context.new_page()  # within a page MLflow stays at the artifact that it shows
        page.goto(f"{base}/runs/{parent}/artifacts/best_trials.json{training}")
        page.get_by_text("steps_to_tolerance").first.wait_for()
        page = page.context.new_page()
        page.goto(f"{base}/runs/{parent}/artifacts/figures/stability_map.png{training}")
        page.wait_for_function("[...document.images].some(image => image.naturalWidth > 600)")
        page.goto(f"{base}/runs{training}&searchFilter=tags.%22sweeps.verdict%22%20%3D%20%27diverged%27")
        page.get_by_text(MATCHING).wait_for()
        found["matching"] = page.get_by_text(MATCHING).inner_text()
        page.goto(f"{ui}/#/models")
        page.get_by_text("bold").first.wait_for()
        found["models"] = page.locator("body").inner_text()
        found["ran"] = page.evaluate("window.ran")
        return found

    found = browser.see(look)
    converged = sum(one.data.tags["sweeps.verdict"] == "converged" for one in tracked.children)
    assert f"{converged} of 12 trials converged" in found["note"]
    assert f"{converged} of 12 trials converged" in found["lead"]
    assert "<b>bold</b>" in found["note"]
    runs = {one.info.run_id for one in tracked.children}
    linked = {link.removesuffix(training).rpartition("/")[2] for link in found["links"] if link} & runs
    assert len(linked) >= len(runs) - len(diverged)
    assert not any(link and link.startswith("javascript:") for link in found["links"])
    assert found["matching"].startswith(f"{len(diverged)} ") or found["matching"].startswith(f"{len(diverged) + 1} ")
    assert "<b>bold<-b>" in found["models"].replace("/", "-")
    assert found["ran"] is None


def test_what_the_parent_holds_can_be_read_by_mlflow(tracked: Tracked) -> None:
    client, parent = tracked.client, tracked.parent
    assert tracked.experiment.tags["mlflow.experimentKind"] == "custom_model_development"
    assert len(parent.data.tags["mlflow.note.content"]) < 8000
    names = {artifact.path for artifact in client.list_artifacts(parent.info.run_id, "figures")}
    assert names == {"figures/stability_map.png", "figures/loss_curves.png"}
    path = Path(client.download_artifacts(parent.info.run_id, "figures/stability_map.png"))
    assert path.read_bytes().startswith(b"\x89PNG")
    assert path.stat().st_size < 200_000
    assert json.loads(parent.data.tags["mlflow.loggedArtifacts"]) == [{"path": "best_trials.json", "type": "table"}]
    mlflow.set_tracking_uri(tracked.store.tracking_uri)
    try:
        table = client.load_table(tracked.experiment.experiment_id, "best_trials.json", [parent.info.run_id])
    finally:
        mlflow.set_tracking_uri(None)  # also removes MLFLOW_TRACKING_URI, which the first call has set
    losses = {one.info.run_id: one.data.metrics.get("final_loss") for one in tracked.children}
    written = json.loads(Path(client.download_artifacts(parent.info.run_id, "best_trials.json")).read_text())
    assert list(table) == written["columns"]
    rows = [dict(zip(written["columns"], row, strict=True)) for row in written["data"]]
    listed = {row["run_id"]: row["final_loss"] for row in rows}
    assert len(listed) > 5
    assert listed == {run_id: losses[run_id] for run_id in listed}
    curve = client.get_metric_history(parent.info.run_id, "best_so_far/final_loss")
    values = [point.value for point in sorted(curve, key=lambda point: point.step)]
    assert values == sorted(values, reverse=True)
    assert values[-1] == parent.data.metrics["best/final_loss"] == min(losses[run_id] for run_id in listed)
    text = "tags.\"sweeps.verdict\" = 'diverged'"
    assert text in parent.data.tags["mlflow.note.content"]
    found = client.search_runs([tracked.experiment.experiment_id], text)
    assert {one.data.tags["sweeps.verdict"] for one in found} == {"diverged"}


def test_an_experiment_of_somebody_else_keeps_its_tags(
    store: Store, make_prepared: Callable[..., PreparedSweep]
) -> None:
    client = MlflowClient(store.tracking_uri)
    theirs = client.create_experiment("small", tags={"mlflow.experimentKind": "genai_development", "team": "a"})
    tracker = MlflowTracker(store.tracking_uri, store.artifacts)
    prepared = make_prepared(tracking={"model": "none"})
    run(create(prepared, store, InlineExecutor(), tracker), prepared, InlineExecutor(), tracker, Silent())
    assert client.get_experiment(theirs).tags == {"mlflow.experimentKind": "genai_development", "team": "a"}
