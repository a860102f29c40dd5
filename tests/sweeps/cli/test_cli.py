"""The command line as a user has it: processes of their own, real Ray, real MLflow, kills and wrong input."""

import http.client
import json
import re
import shutil
import signal
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
from mlflow import MlflowClient

from sweeps.store.store import Store
from tests.support.command_line import Cli
from tests.support.documents import ROOT

pytestmark = pytest.mark.slow


def only_id(cli: Cli) -> str:
    [sweep] = json.loads(cli("list", "--json").stdout)
    return str(sweep["id"])


def test_help_is_quick_because_nothing_heavy_is_imported(tmp_path: Path) -> None:
    out = Cli(tmp_path, forked=False)("--help", PYTHONPROFILEIMPORTTIME="1")
    for command in ("plan", "run", "resume", "log", "list", "show", "report", "replay", "ui", "schema"):
        assert re.search(rf"^  {command} ", out.stdout, re.MULTILINE)
    imported = set(re.findall(r"\| +([\w.]+)$", out.stderr, re.MULTILINE))
    assert "typer" in imported
    assert imported.isdisjoint({"torch", "ray", "mlflow", "numpy", "pandas", "pydantic", "numba", "pyarrow", "plotly"})
    assert imported.isdisjoint({"concurrent.futures", "importlib.metadata", "multiprocessing", "rich", "yaml"})


def test_the_published_cases_come_out_of_the_command_as_the_shell_starts_it(tmp_path: Path) -> None:
    out = Cli(tmp_path, forked=False)("run", ROOT / "configs" / "seed.yaml", "--executor", "ray").stdout
    rows = {row.split("  ")[0].strip(): row for row in out.splitlines()[1:]}
    for case, final in (
        ("plain", ("0.9559", "1.4754")),
        ("weight decay", ("0.6061", "0.9894")),
        ("momentum", ("5.5695", "3.4704")),
    ):
        line = next(row for row in rows.values() if row.strip().startswith(case))
        for value in final:
            assert line.count(value) == 2, line  # what came out, and what was published
        assert " yes " in line
    assert "bit for bit" in next(row for row in rows.values() if row.strip().startswith("both"))
    assert "momentum: weight overshoots its target 0.8 by 326 %" in out
    assert "is diverging" in out
    assert "local Ray" in out


def test_a_gpu_that_is_not_there_is_one_line(cli: Cli, config: Callable[..., Path], store: Store) -> None:
    path = config(training={"epochs": 1, "device": "cuda:99"})
    [line] = cli("run", path, "--executor", "inline", code=2).stderr.splitlines()
    assert "training.device: device 'cuda:99' needs a CUDA GPU that torch can use; found" in line
    assert not (store.root / "sweeps").exists()


def test_what_is_not_as_expected_fails_the_sweep(cli: Cli) -> None:
    out = cli(
        "run", ROOT / "configs" / "seed.yaml", "--executor", "inline", "--set", "expected.2.final.weight=0.8", code=4
    )
    assert "error: not as expected: momentum" in out.stderr
    assert json.loads(cli("list", "--json").stdout)[0]["state"] == "reported"


def test_a_sweep_from_plan_to_report(cli: Cli, config: Callable[..., Path], store: Store) -> None:
    path = config(name="<b>all</b> the way", experiment="e")
    assert "12 trials of 20 steps" in cli("plan", path).stdout
    assert "predicted: 83% of the trials are stable" in cli("plan", path).stdout
    assert not (store.root / "sweeps").exists()
    assert json.loads(cli("plan", path, "--json").stdout)["trials"] == 12
    plain = ("plan", path, "--set", "parameters.momentum={value: 0}")
    assert "lr: the best predicted value, 0.03, is the largest of its axis: extend it" in cli(*plain).stdout
    planned = json.loads(cli(*plain, "--json").stdout)
    assert planned["predicted"]["kind"] == "spectral radius of the epoch's map"
    assert planned["predicted"]["edges"] == [{"axis": "lr", "value": 0.03, "end": "largest"}]
    ran = cli("run", path, "--executor", "inline")
    assert "logged 12 of 12" in ran.stdout
    sweep_id = only_id(cli)
    told = store.find(sweep_id).tracking_record.first()
    assert told["writer"] == "bulk"
    assert f"writer:   bulk ({told['writer_reason']})" in ran.stdout
    shown = json.loads(cli("show", sweep_id[:4], "--json").stdout)
    assert shown["state"] == "reported"
    assert sum(row["trials"] for row in shown["verdicts"]) == 12
    assert "<b>all</b> the way" in cli("show", sweep_id).stdout
    report = store.find(sweep_id).report.folder
    assert {f.name for f in report.iterdir()} == {"report.html", "report.md", "report.json", "trials.csv"}
    (report / "report.html").unlink()
    cli("report", sweep_id)
    assert "<b>all</b>" not in (report / "report.html").read_text()
    assert cli("report", sweep_id, "--format", "csv").stdout.count("\n") == 13
    assert json.loads(cli("report", sweep_id, "--format", "json").stdout)
    client = MlflowClient(store.tracking_uri)
    runs = client.search_runs([client.get_experiment_by_name("e").experiment_id])
    assert len(runs) == 13
    assert {run.info.status for run in runs} == {"FINISHED"}


def test_policies_choose_the_trials_that_become_runs(cli: Cli, config: Callable[..., Path], store: Store) -> None:
    cli("run", config(tracking={"trials": "top:3"}), "--executor", "inline")
    client = MlflowClient(store.tracking_uri)
    runs = client.search_runs([client.get_experiment_by_name("small").experiment_id], "tags.`mlflow.parentRunId` != ''")
    logged = sorted(run.data.metrics["final_loss"] for run in runs)
    best = json.loads(cli("show", only_id(cli), "--json").stdout)["best trials"]
    assert logged == [row["final_loss"] for row in best[:3]]


def test_replay_shows_the_trial_beside_torch(cli: Cli, config: Callable[..., Path]) -> None:
    cli("run", config(tracking={"trials": "none"}), "--executor", "inline")
    sweep_id = only_id(cli)
    replayed = json.loads(cli("replay", sweep_id, 7, "--json").stdout)
    assert len(replayed["steps"]) == 20
    assert replayed["exact"] is True
    assert {step["deviation"] for step in replayed["steps"]} == {0.0}
    text = cli("replay", sweep_id, 7, "--steps", 3).stdout
    assert "17 more steps" in text
    assert "20 steps, bit for bit equal to torch.optim.SGD; the stored values match" in text
    for trial, message in (("99", "give a number from 0 to 11"), ("zzzz", "no trial has an id with this prefix")):
        assert message in cli("replay", sweep_id, trial, code=2).stderr


def test_replay_tells_what_the_store_holds_otherwise(cli: Cli, store: Store, config: Callable[..., Path]) -> None:
    cli("run", config(tracking={"trials": "none"}), "--executor", "inline")
    [files] = store.sweeps()
    table = files.shards.read(1)
    final = table["final"].to_pylist()
    final[3][0] *= 1 + 1e-6
    place = table.column_names.index("final")
    files.shards.replace(1, table.set_column(place, "final", pa.array(final, table.schema.field("final").type)))
    told = cli("replay", files.sweep_id, 7, code=4)
    assert "bit for bit equal to torch.optim.SGD; the STORED VALUES DIFFER" in told.stdout
    assert told.stderr == "error: the store or the engine differs from torch.optim.SGD\n"
    replayed = json.loads(cli("replay", files.sweep_id, 7, "--json", code=4).stdout)
    assert (replayed["store_holds_the_same"], replayed["exact"], replayed["agrees"]) == (False, False, False)
    assert json.loads(cli("replay", files.sweep_id, 6, "--json").stdout)["agrees"] is True


def test_schema_describes_the_shipped_configs(cli: Cli) -> None:
    schema = json.loads(cli("schema").stdout)
    assert {"name", "task", "training", "parameters", "tracking"} <= set(schema["properties"])
    assert "additionalProperties" in json.dumps(schema)


@pytest.mark.parametrize(
    ("number", "where"),
    [(signal.SIGINT, ["--executor", "ray"]), (signal.SIGTERM, ["--executor", "inline"])],
    ids=["ctrl-c", "kill"],
)
def test_an_interrupted_sweep_names_the_command_that_finishes_it(
    cli: Cli, config: Callable[..., Path], store: Store, number: signal.Signals, where: list[str]
) -> None:
    """On a local Ray, and inline, where a short sweep is not in MLflow before all trials are computed."""
    path = config(parameters={"lr": {"min": 0.001, "max": 0.05, "count": 400}}, execution={"trials_per_shard": 10})
    process = cli.start("run", path, "--store", "store", *where)
    until = time.monotonic() + 120
    while not any(files.shards.done() for files in store.sweeps()) and time.monotonic() < until:
        time.sleep(0.05)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, out + err
    assert "Traceback" not in err
    sweep_id = only_id(cli)
    assert f"continue with: sweeps resume {sweep_id}\n" in err
    client = MlflowClient(store.tracking_uri)
    interrupted = client.get_experiment_by_name("small")
    assert (interrupted is None) == ("inline" in where)
    if interrupted is not None:
        [parent] = client.search_runs([interrupted.experiment_id], "tags.`sweeps.kind` = 'sweep'")
        assert parent.info.status == "KILLED"
    cli("resume", sweep_id, *where)
    experiment = client.get_experiment_by_name("small").experiment_id
    [parent] = client.search_runs([experiment], "tags.`sweeps.kind` = 'sweep'")
    trials = client.search_runs([experiment], "tags.`mlflow.parentRunId` != ''", max_results=1000)
    assert len({run.data.tags["sweeps.trial_id"] for run in trials}) == len(trials) == 400
    assert client.get_run(parent.info.run_id).info.status == "FINISHED"
    assert json.loads(cli("list", "--json").stdout)[0]["state"] == "reported"


def test_the_command_that_is_named_works_from_here(cli: Cli, config: Callable[..., Path]) -> None:
    done = cli(
        *("run", config(tracking={"trials": "none"}), "--executor", "inline", "--store", "other place"),
        *("--set", "expected=[{case: c, where: {lr: 0.01}, final: {weight: 99}}]"),
        code=4,
    )
    assert "not as expected: c" in done.stderr
    [sweep] = json.loads(cli("list", "--store", "other place", "--json").stdout)
    (cli.folder / "other place" / "sweeps" / sweep["id"] / "shards" / "00001.parquet").write_bytes(b"damaged")
    broken = cli("resume", sweep["id"], "--store", "other place", "--executor", "inline", code=2)
    assert "00001.parquet: cannot be read" in broken.stderr
    assert "remove it and resume the sweep" in broken.stderr


def test_two_sweeps_start_at_once_in_a_fresh_store(cli: Cli, config: Callable[..., Path]) -> None:
    path = config(tracking={"trials": "top:1"})
    both = [cli.start("run", path, "--executor", "inline", "--store", "fresh") for _ in range(2)]
    ended = [process.communicate(timeout=120) for process in both]
    assert [process.returncode for process in both] == [0, 0], ended
    assert len(json.loads(cli("list", "--store", "fresh", "--json").stdout)) == 2


def test_a_resumed_sweep_has_the_shards_of_an_undisturbed_one(
    cli: Cli, config: Callable[..., Path], store: Store
) -> None:
    cli("run", config(tracking={"trials": "none"}), "--executor", "inline")
    shards = store.find(only_id(cli)).shards.folder
    before = {path.name: path.read_bytes() for path in shards.iterdir()}
    for name in ("00000.parquet", "00002.parquet"):
        (shards / name).unlink()
    cli("resume", only_id(cli), "--executor", "inline")
    assert {path.name: path.read_bytes() for path in shards.iterdir()} == before


def test_a_sweep_is_resumed_where_it_is_tracked(
    cli: Cli, config: Callable[..., Path], store: Store, tmp_path: Path, migrated_database: Path
) -> None:
    elsewhere = f"sqlite:///{shutil.copy(migrated_database, tmp_path / 'elsewhere.db')}"
    path = config(tracking={"writer": "client"})  # to the bulk writer a run with another trial's id is an error
    assert elsewhere in cli("run", path, "--executor", "inline", MLFLOW_TRACKING_URI=elsewhere).stdout
    client = MlflowClient(elsewhere)
    experiment = client.get_experiment_by_name("small").experiment_id
    [lost] = client.search_runs(
        [experiment], "params.lr = '0.03' and params.momentum = '0.9' and params.weight_decay = '0.1'"
    )
    client.set_tag(lost.info.run_id, "sweeps.trial_id", "somebody else's")
    cli("resume", only_id(cli), "--executor", "inline")
    assert len(client.search_runs([experiment], f"tags.`sweeps.trial_id` = '{lost.data.tags['sweeps.trial_id']}'")) == 1
    assert MlflowClient(store.tracking_uri).get_experiment_by_name("small") is None


def test_data_that_changed_are_not_mixed(cli: Cli, config: Callable[..., Path], tmp_path: Path) -> None:
    data = tmp_path / "d.csv"
    data.write_text("x,y\n1,2\n2,3\n")
    path = config(task={"dataset": {"kind": "csv", "path": "d.csv", "target": "y"}}, tracking={"trials": "none"})
    cli("run", path, "--executor", "inline")
    data.write_text("x,y\n1,2\n2,4\n")
    assert "its data set has changed" in cli("resume", only_id(cli), "--executor", "inline", code=2).stderr


def test_the_ui_serves_the_store_and_ends_with_ctrl_c(cli: Cli, config: Callable[..., Path]) -> None:
    cli("run", config(tracking={"trials": "none"}), "--executor", "inline")
    process = cli.start("ui", "--port", 0)
    assert process.stdout is not None
    address = re.search(r"http://127\.0\.0\.1:\d+", process.stdout.readline())
    assert address is not None
    request = urllib.request.Request(
        f"{address[0]}/api/2.0/mlflow/experiments/search",
        data=b'{"max_results": 10}',
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=30) as response:
        names = [e["name"] for e in json.load(response)["experiments"]]
    assert "small" in names
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 0
    connection = http.client.HTTPConnection(address[0].removeprefix("http://"), timeout=2)
    with pytest.raises(ConnectionRefusedError):
        connection.request("GET", "/health")


def test_a_relative_database_is_the_same_one_from_every_folder(
    cli: Cli, config: Callable[..., Path], store: Store, tmp_path: Path
) -> None:
    cli("run", config(), "--executor", "inline", "--tracking-uri", "sqlite:///m.db")
    [files] = store.sweeps()
    assert files.tracking_record.first()["uri"] == f"sqlite:///{tmp_path}/m.db"
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    from_there = Cli(elsewhere)
    there = {"SWEEPS_STORE": str(store.root)}
    assert "tracking: 12 trials match the store" in from_there("verify", files.sweep_id, **there).stdout
    from_there("resume", files.sweep_id, "--executor", "inline", **there)
    assert len(MlflowClient(f"sqlite:///{tmp_path}/m.db").search_runs(["1"])) == 13
    (tmp_path / "m.db").unlink()
    for command in (["verify"], ["resume", "--executor", "inline"], ["log"]):
        [line] = from_there(*command, files.sweep_id, code=2, **there).stderr.splitlines()
        assert line == (
            f"error: {tmp_path}/m.db: the database that the sweep was logged to does not exist; pass --tracking-uri"
        )
    own = ("--tracking-uri", store.tracking_uri)
    store.database.unlink()
    assert "mlflow.db: there is no such database" in cli("verify", files.sweep_id, *own, code=2).stderr
    assert list(elsewhere.iterdir()) == []
    assert not (tmp_path / "m.db").exists()
    assert not store.database.exists()


def test_a_taken_port_is_told(cli: Cli) -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert f"port {port} is taken" in cli("ui", "--port", port, code=2).stderr


BAD_RUNS = {
    "no such file": (["run", "nope.yaml"], "nope.yaml: cannot be read: No such file or directory"),
    "config": (["run", "sweep.yaml", "--set", "training.epochs=-1"], "training.epochs: given -1; must be >= 1"),
    "two problems": (["run", "sweep.yaml", "--set", "nme=x", "--set", "method=magic"], "nme: unknown key"),
    "override": (["run", "sweep.yaml", "--set", "epochs"], "must be KEY=VALUE"),
    "data file": (
        ["run", "sweep.yaml", "--set", "task.dataset={kind: csv, path: no.csv, target: y}"],
        "no such file (task.dataset.path)",
    ),
    "tracking server": (
        ["run", "sweep.yaml", "--executor", "inline", "--tracking-uri", "http://127.0.0.1:1"],
        "http://127.0.0.1:1: the tracking server cannot be reached",
    ),
    "ray address": (["run", "sweep.yaml", "--address", "127.0.0.1:1"], "Ray at 127.0.0.1:1 cannot be joined"),
    "address inline": (["run", "sweep.yaml", "--executor", "inline", "--address", "auto"], "--executor ray"),
    "store": (["run", "sweep.yaml", "--executor", "inline", "--store", "sweep.yaml/x"], "the store cannot be written"),
    "store's name": (["run", "sweep.yaml", "--executor", "inline", "--store", "what?"], "must not contain '?'"),
    "beyond float32": (["plan", "sweep.yaml", "--set", "task.dataset.slope=1e39"], "float32"),
    "no store to list": (["list", "--store", "typo"], "typo: no such store; check --store"),
    "no store to serve": (["ui", "--store", "typo"], "typo: no such store; check --store"),
    "no database to serve": (["ui", "--store", "."], "mlflow.db: there is no such database"),
    "unknown sweep": (["show", "abcd"], "'abcd': no such sweep in the store"),
    "no id": (["report", "../.."], "not a sweep id"),
    "executor": (["run", "sweep.yaml", "--executor", "slurm"], "'slurm' is not one of"),
    "command": (["tune"], "No such command 'tune'"),
    "option": (["plan", "sweep.yaml", "--frob"], "No such option: --frob"),
    "argument": (["plan"], "Missing argument 'CONFIG'"),
}


@pytest.mark.parametrize(("arguments", "message"), BAD_RUNS.values(), ids=BAD_RUNS.keys())
def test_mistakes_end_with_exit_code_2_and_nothing_written(
    cli: Cli, config: Callable[..., Path], store: Store, arguments: list[str], message: str
) -> None:
    config()
    done = cli(*arguments, code=2)
    assert message in done.stderr
    assert not (store.root / "sweeps").exists()
    assert not {path.name for path in cli.folder.iterdir()} & {"typo", "mlflow.db", "artifacts"}


def test_the_plan_names_the_features_and_what_was_done_to_the_data(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "d.csv").write_text(",x,color,y\n0,1,red,2\n1,2,blue,3\n2,,red,4\n3,4,red,5\n")
    dataset = "{kind: csv, path: d.csv, target: y, missing: drop, categories: one_hot}"
    path = tmp_path / "d.yaml"
    path.write_text(
        f"name: d\ntask: {{dataset: {dataset}}}\ntraining: {{epochs: 1}}\nparameters: {{lr: {{value: 1}}}}\n"
    )
    planned = cli("plan", path).stdout
    assert "features: x, color_blue, color_red; target: y\n" in planned
    first = "first row: x 1, color_blue 0, color_red 1; target: 2\n"
    assert first in planned
    for seed in range(3):  # whichever rows are held out
        held_out = ("task.dataset.validation=0.4", f"task.dataset.split_seed={seed}")
        assert first in cli("plan", path, *(word for text in held_out for word in ("--set", text))).stdout
    notes = [
        "left out column 1, a table's index: it has no name",
        "dropped 1 of 4 rows, which have missing values",
        "column 'color' became 2 one-hot columns",
    ]
    for note in notes:
        assert f"data: {note}\n" in planned
    data = json.loads(cli("plan", path, "--json").stdout)["data"]
    assert (data["features"], data["notes"]) == (["x", "color_blue", "color_red"], notes)


@pytest.mark.parametrize("name", ["/proc/kmsg", "/proc/self/maps", "/dev/zero"])
def test_a_sweep_file_without_a_size_is_refused(cli: Cli, name: str) -> None:
    told = cli("plan", name, code=2).stderr
    assert f"{name}: cannot be read: " in told
    assert told.count("\n") == 1
