"""The audit: clean after a sweep, and each thing that is not as it ought to be is a line."""

import json
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from mlflow import MlflowClient

from sweeps.config import strict_yaml
from sweeps.config.loader import parse
from sweeps.errors import SweepHeld
from sweeps.execution.inline import InlineExecutor
from sweeps.pipeline.publish import publish
from sweeps.pipeline.run import create, resume, run
from sweeps.planning.prepared import PreparedSweep, prepare
from sweeps.planning.shards import ShardFailure
from sweeps.store.store import Store, SweepFiles
from sweeps.tracking.mlflow.tracker import MlflowTracker
from sweeps.verification.audit import verify
from sweeps.verification.differences import Audit
from tests.support.command_line import Cli
from tests.support.documents import TASKS, document
from tests.support.doubles import Silent
from tests.support.hypothesis_profiles import NIGHTLY

pytestmark = pytest.mark.usefixtures("no_figures")

MakePrepared = Callable[..., PreparedSweep]
KEPT: dict[str, dict[str, Any]] = {
    "best": {"tracking": {"trials": "top:3"}},
    "untracked": {"tracking": {"trials": "none"}},
    "longer": {"training": {"epochs": 40}, "verdict": {"rtol": 0.9}, "tracking": {"trials": "none"}},
}


@pytest.fixture
def swept(store: Store) -> Callable[[PreparedSweep], SweepFiles]:
    def sweep(prepared: PreparedSweep) -> SweepFiles:
        tracker = MlflowTracker(store.tracking_uri, store.artifacts)
        files = create(prepared, store, InlineExecutor(), tracker)
        publish(run(files, prepared, InlineExecutor(), tracker, Silent()), tracker)
        return files

    return sweep


@pytest.fixture(scope="module")
def keep(tmp_path_factory: pytest.TempPathFactory, migrated_database: Path) -> Callable[[str], SweepFiles]:
    """Sweeps that are trained, logged and published once; ``kept`` restores their files after a test."""

    @cache
    def sweep(name: str) -> SweepFiles:
        home = Store(tmp_path_factory.mktemp("kept") / "store")
        home.check_writable()
        shutil.copy(migrated_database, home.root / "mlflow.db")
        prepared, tracker = (
            prepare(parse(document(**KEPT[name]), "t.yaml")),
            MlflowTracker(home.tracking_uri, home.artifacts),
        )
        files = create(prepared, home, InlineExecutor(), tracker)
        publish(run(files, prepared, InlineExecutor(), tracker, Silent()), tracker)
        return files

    return sweep


@pytest.fixture
def kept(keep: Callable[[str], SweepFiles], tmp_path: Path) -> Iterator[Callable[[str], SweepFiles]]:
    used: dict[str, Path] = {}

    def sweep(name: str) -> SweepFiles:
        files = keep(name)
        shutil.copytree(files.folder, tmp_path / name)
        used[name] = files.folder
        return files

    yield sweep
    for name, folder in used.items():
        shutil.rmtree(folder)
        shutil.copytree(tmp_path / name, folder)


def audit(files: SweepFiles, sample: int = 5) -> Audit:
    return verify(files, MlflowTracker(Store.of(files).tracking_uri), sample)


def lines(files: SweepFiles, sample: int = 5) -> list[str]:
    return [str(difference) for difference in audit(files, sample).differences]


@pytest.mark.slow
@pytest.mark.parametrize("writer", ["bulk", "client"])
@pytest.mark.parametrize("policy", ["all", "none", "top:5"])
@pytest.mark.parametrize("name", TASKS)
def test_a_finished_sweep_is_clean(
    swept: Callable[[PreparedSweep], SweepFiles], make_prepared: MakePrepared, name: str, policy: str, writer: str
) -> None:
    prepared = make_prepared(**TASKS[name], tracking={"trials": policy, "writer": writer, "points": 3})
    found = audit(swept(prepared), sample=100)
    assert found.differences == []
    total = len(prepared.plan)
    assert (found.trials, found.stored, found.recomputed) == (total, total, total)
    assert found.logged == {"all": total, "none": 0, "top:5": min(5, total - found.verdicts["diverged"])}[policy]
    assert found.verdicts.total() == total
    assert found.exact == total or name != "line"


def tampered(files: SweepFiles, column: str, change: Callable[[list[Any]], object]) -> None:
    """Shard 1 with another column, as somebody with the best tools would leave it."""
    table = files.shards.read(1)
    values = table[column].to_pylist()
    change(values)
    place = table.column_names.index(column)
    files.shards.replace(1, table.set_column(place, column, pa.array(values, table.schema.field(column).type)))


def swap(values: list[Any]) -> None:
    values[0], values[1] = values[1], values[0]


def nudge(values: list[Any]) -> None:
    values[2] *= 1.001


STORE: dict[str, tuple[Callable[[SweepFiles], object], str]] = {
    "no shard": (
        lambda files: (files.shards.folder / "00001.parquet").unlink(),
        "shard (00001.parquet): expected 4 trials, found no file",
    ),
    "given up": (
        lambda files: (
            (files.shards.folder / "00001.parquet").unlink(),
            files.shards.write_failure(ShardFailure(files_shard(1), "died", 4)),
        ),
        "shard (00001.parquet): expected 4 trials, found no file after 4 tries",
    ),
    "a flipped bit": (lambda files: flip(files.shards.folder / "00001.parquet"), "found a damaged file; remove it"),
    "one too many": (
        lambda files: files.shards.replace(7, files.shards.read(1)),
        "shard (00007.parquet): expected no shard with this number, found a file",
    ),
    "rows": (
        lambda files: files.shards.replace(1, files.shards.read(1).slice(0, 3)),
        "rows of trial_id (00001.parquet): expected 4, found 3",
    ),
    "order": (lambda files: tampered(files, "trial", swap), "trial of trial 4 (00001.parquet): expected 4, found 5"),
    "ids": (lambda files: tampered(files, "trial_id", swap), "trial_id of trial 4 (00001.parquet): expected "),
    "lr": (lambda files: tampered(files, "lr", nudge), "lr of trial 6 (00001.parquet): expected 0.01, found 0.01001"),
    "infinite": (
        lambda files: tampered(files, "final_loss", lambda v: v.__setitem__(3, np.inf)),
        "final_loss (00001.parquet): expected finite values or nulls, found non-finite values",
    ),
    "steps": (
        lambda files: files.shards.replace(
            1, files.shards.read(1).replace_schema_metadata(files.shards.read(1).schema.metadata | {b"steps": b"[0]"})
        ),
        "steps (00001.parquet): expected [0, 1, ",
    ),
    "final": (
        lambda files: tampered(files, "final", lambda v: nudge_inner(v)),
        "final[0] (trial 6, recomputed): expected ",
    ),
    "loss": (lambda files: tampered(files, "loss", lambda v: nudge_inner(v)), "loss[0] (trial 6, recomputed)"),
    "verdict": (
        lambda files: tampered(files, "verdict", lambda v: v.__setitem__(2, "diverged")),
        "verdict (trial 6, recomputed): expected ",
    ),
    "plan": (
        lambda files: files.plan_path.write_text(files.plan_path.read_text().replace('"trials": 12', '"trials": 13')),
        "trials (plan.json): expected 13, found 12 when planned again",
    ),
}


def files_shard(index: int) -> Any:
    from sweeps.planning.shards import Shard

    return Shard(index, 4 * index, 4 * index + 4)


def nudge_inner(values: list[list[float]]) -> None:
    values[2][0] *= 1.001


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[200] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(("tamper", "told"), STORE.values(), ids=STORE)
def test_what_is_wrong_in_the_store_is_told(
    kept: Callable[[str], SweepFiles], tamper: Callable[[SweepFiles], object], told: str
) -> None:
    files = kept("best")
    tamper(files)
    found = [str(difference) for difference in audit(files, sample=100).differences]
    assert any(told in line for line in found), found


DERIVED = [
    "initial_loss",
    "final_loss",
    "best_loss",
    "best_step",
    "best_epoch",
    "steps_to_tolerance",
    "overshoot_percent",
    "overshoot_parameter",
    "peak_value",
    "peak_step",
    "predicted_radius",
    "init.weight",
    "param.weight",
    "param.bias",
]


@pytest.mark.parametrize("columns", [[column] for column in DERIVED] if NIGHTLY else [DERIVED], ids=len)
def test_any_column_that_does_not_follow_from_the_training_is_told(
    kept: Callable[[str], SweepFiles], columns: list[str]
) -> None:
    files = kept("longer")
    told = set()
    for column in columns:
        row = next(row for row, value in enumerate(files.shards.read(1)[column].to_pylist()) if value is not None)
        tampered(files, column, lambda values, row=row: values.__setitem__(row, other(values[row])))
        told.add(f"{column} (trial {4 + row}, recomputed)")
    assert told <= {line.partition(":")[0] for line in lines(files, sample=100)}


def other(value: Any) -> Any:
    if isinstance(value, list):
        return [other(value[0]), *value[1:]]
    return {int: 7, str: "weight" if value == "bias" else "bias"}.get(type(value)) or value * 1.001


def test_the_verdicts_of_networks_are_held_against_all_losses(
    swept: Callable[[PreparedSweep], SweepFiles], make_prepared: MakePrepared
) -> None:
    prepared = make_prepared(**TASKS["network"], tracking={"trials": "none"}, execution={"trials_per_shard": 11})
    files = swept(prepared)
    assert lines(files) == []
    tampered(files, "steps_to_tolerance", lambda values: values.__setitem__(0, 4 if values[0] != 4 else 3))
    assert "verdicts (00001.parquet): expected verdicts from the sweep's losses, found others" in lines(files)


def test_a_bit_that_flips_anywhere_is_found(kept: Callable[[str], SweepFiles]) -> None:
    """Pages have checksums: wherever a file is damaged, it is not read as if nothing had happened."""
    files = kept("untracked")
    path = files.shards.folder / "00001.parquet"
    whole, before = path.read_bytes(), files.shards.read(1)
    pages = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")  # what comes before the footer
    for place in range(4, pages, 487):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 16]) + whole[place + 1 :])
        if not lines(files):
            assert files.shards.read(1).equals(before)


@pytest.fixture
def client(store: Store) -> MlflowClient:
    return MlflowClient(store.tracking_uri)


def test_what_is_wrong_in_mlflow_is_told(
    swept: Callable[[PreparedSweep], SweepFiles], make_prepared: MakePrepared, client: MlflowClient, store: Store
) -> None:
    files = swept(make_prepared())
    assert lines(files) == []
    experiment = client.get_experiment_by_name("small").experiment_id
    runs = client.search_runs([experiment], "tags.`mlflow.parentRunId` != ''")
    a, b, c, d, e = runs[:5]
    ids = [run.data.tags["sweeps.trial_id"] for run in runs]
    [parent] = client.search_runs([experiment], "tags.`sweeps.kind` = 'sweep'")
    client.delete_run(a.info.run_id)
    client.log_metric(b.info.run_id, "final_loss", 7.0, step=99)
    client.log_metric(c.info.run_id, "final_loss", float("nan"), step=99)
    client.set_tag(d.info.run_id, "sweeps.verdict", "diverged")
    client.set_terminated(e.info.run_id, "FAILED")
    twice = runs[5]
    tags = {key: twice.data.tags[key] for key in ("mlflow.parentRunId", "sweeps.trial_id", "sweeps.sweep_id")}
    client.create_run(experiment, tags=tags)
    stranger = client.create_run(experiment, tags=tags | {"sweeps.trial_id": "f" * 32})
    client.log_metric(parent.info.run_id, "trials", 13.0, step=1)
    found = lines(files)
    for told in (
        f"mlflow: metric final_loss (trial {ids[1]}): expected {b.data.metrics['final_loss']}, found 7.0",
        f"mlflow: metric final_loss (run {c.info.run_id}): expected a finite value, found nan",
        f"mlflow: verdict (trial {ids[3]}): expected {d.data.tags['sweeps.verdict']}, found diverged",
        f"mlflow: status (trial {ids[4]}): expected FINISHED, found FAILED",
        f"mlflow: runs (trial {ids[5]}): expected 1, found 2",
        f"mlflow: trial {'f' * 32} (runs): expected a trial of this sweep, found {stranger.info.run_id}",
        "mlflow: metric trials (parent run): expected 12.0, found 13.0",
    ):
        assert told in found
    assert not any(ids[0] in line for line in found)
    assert (audit(files).logged, audit(files).deleted) == (12 - 6, 1)


@pytest.mark.parametrize(
    ("changed", "relative", "told"), [("loss", 1e-13, 0), ("loss", 1e-6, 1), ("final/bias", 1e-13, 1)]
)
def test_a_loss_in_mlflow_may_differ_in_its_last_bits(
    swept: Callable[[PreparedSweep], SweepFiles],
    make_prepared: MakePrepared,
    client: MlflowClient,
    changed: str,
    relative: float,
    told: int,
) -> None:
    """Another processor can have computed it; parameters are the same on all."""
    files = swept(make_prepared(training={"epochs": 4, "dtype": "float64"}))
    experiment = client.get_experiment_by_name("small").experiment_id
    run = client.search_runs([experiment], "tags.`mlflow.parentRunId` != ''")[0]
    client.log_metric(run.info.run_id, changed, run.data.metrics[changed] * (1 + relative), step=99)
    assert [line.startswith(f"mlflow: metric {changed} ") for line in lines(files)] == [True] * told


def test_a_sweep_that_mlflow_does_not_know(
    swept: Callable[[PreparedSweep], SweepFiles], make_prepared: MakePrepared, tmp_path: Path, migrated_database: Path
) -> None:
    files = swept(make_prepared())
    found = verify(files, MlflowTracker(f"sqlite:///{migrated_database}"), 0)
    assert "mlflow: parent run (runs): expected 1, found 0" in map(str, found.differences)
    assert len(found.differences) == 13
    assert found.recomputed == 0


def test_totals_that_a_resumed_sweep_lowers_are_the_last_ones(
    swept: Callable[[PreparedSweep], SweepFiles], make_prepared: MakePrepared, store: Store
) -> None:
    """Of two metric points at one time and step MLflow takes the greater for the last."""
    prepared = make_prepared()
    files = swept(prepared)
    tracker = MlflowTracker(store.tracking_uri, store.artifacts)
    tracker.start(resume(files, InlineExecutor(), tracker, Silent()) and sweep_of(files, prepared))
    tracker.finish(sweep_of(files, prepared), {"best/final_loss": 99.0}, {})
    assert any("metric best/final_loss" in line for line in lines(files))
    publish(resume(files, InlineExecutor(), tracker, Silent()), tracker)
    assert lines(files) == []


def sweep_of(files: SweepFiles, prepared: PreparedSweep) -> Any:
    from sweeps.tracking.base import TrackedSweep

    return TrackedSweep.of(files, prepared)


def test_a_sweep_that_is_being_worked_on_is_not_audited(kept: Callable[[str], SweepFiles]) -> None:
    files = kept("untracked")
    with files.lease(), pytest.raises(SweepHeld, match="verify it when that process is done"):
        audit(files)


def test_of_trials_that_take_torch_long_fewer_are_trained_again(
    swept: Callable[[PreparedSweep], SweepFiles], make_prepared: MakePrepared
) -> None:
    files = swept(make_prepared(training={"epochs": 100_000}, tracking={"trials": "none"}))
    found = verify(files, MlflowTracker(Store.of(files).tracking_uri))
    assert (found.steps, found.recomputed, found.curtailed, found.differences) == (500_000, 0, True, [])
    short = swept(make_prepared(tracking={"trials": "none"}))
    found = verify(short, MlflowTracker(Store.of(short).tracking_uri))
    assert (found.recomputed, found.curtailed) == (12, False)


@pytest.mark.slow
def test_the_command_line(cli: Cli, store: Store, tmp_path: Path) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_text(strict_yaml.write(document()))
    cli("run", path, "--executor", "inline")
    [files] = store.sweeps()
    out = cli("verify", files.sweep_id, "--sample", 3).stdout
    assert "store:    12 of 12 trials match the plan\n" in out
    assert "tracking: 12 trials match the store, at sqlite:///" in out
    assert "sample:   3 trials trained by torch.optim.SGD, 3 are equal bit for bit\n" in out
    with closing(sqlite3.connect(store.root / "mlflow.db")) as database, database:
        database.execute(
            "UPDATE latest_metrics SET value = value + 1 WHERE key = 'final_loss' AND run_uuid IN "
            "(SELECT run_uuid FROM runs WHERE name = 'trial 3')"
        )
    done = cli("verify", files.sweep_id, "--json", code=4)
    assert done.stderr == f"error: sweep {files.sweep_id}: 1 difference\n"
    found = json.loads(done.stdout)
    assert [d["what"] for d in found["differences"]] == ["mlflow: metric final_loss"]
    shown = json.loads(cli("show", files.sweep_id, "--json").stdout)["verdicts"]
    assert found["verdicts"] == {row["verdict"]: row["trials"] for row in shown if row["trials"]}
    assert (found["clean"], found["trials"], found["logged"], found["recomputed"]) == (False, 12, 11, 12)
