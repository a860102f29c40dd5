"""Commands for a sweep as a whole, ids that need not be copied, and what a script reads."""

import json
import shlex
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow import MlflowClient
from typer.testing import CliRunner

import sweeps.cli
from sweeps.cli import app
from sweeps.config import strict_yaml
from sweeps.store.store import Store
from sweeps.version import __version__
from tests.support.command_line import Cli
from tests.support.processes import until

INLINE = ("--executor", "inline")


@pytest.mark.parametrize("command", [[], ["run"], ["best"], ["schedule"], ["schedule", "list"]])
def test_short_help(command: list[str]) -> None:
    short, long = (CliRunner().invoke(app, [*command, option]) for option in ("-h", "--help"))
    assert (short.exit_code, short.output) == (0, long.output)
    assert "Usage:" in short.output


def test_version() -> None:
    assert CliRunner().invoke(app, ["--version"]).output == f"sweeps {__version__}\n"


def test_without_a_command_the_help_is_printed() -> None:
    told = CliRunner().invoke(app, [])
    assert told.exit_code == 2
    assert "Usage: sweeps" in told.output


def test_another_package_of_this_name_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Cli) -> None:
    info = tmp_path / "sweeps-0.2.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: sweeps\nVersion: 0.2.0\n")
    cli.forked = False
    paths = f"{tmp_path}:{Path(sweeps.cli.__file__).parents[2]}"
    [line] = cli("list", code=2, PYTHONPATH=paths).stderr.splitlines()
    assert line.startswith("error: the package sweeps 0.2.0 (of Weights & Biases) is installed")
    assert "pip uninstall sweeps" in line


def test_a_sweep_is_run_read_reused_and_removed(cli: Cli, config: Callable[..., Path], store: Store) -> None:
    path = config(name="my sweep")
    done = cli("run", path, *INLINE, "--json")
    ran = json.loads(done.stdout)
    [files] = store.sweeps()
    assert (ran["sweep_id"], ran["name"], ran["state"]) == (files.sweep_id, "my sweep", "reported")
    assert (ran["trials"], ran["stored trials"], ran["failed shards"]) == (12, 12, 0)
    assert ran["report"] == str(files.report.folder / "report.html")
    assert "computed 12 of 12" in done.stderr
    for given in ("latest", "my sweep", files.sweep_id[:3]):
        assert json.loads(cli("show", given, "--json").stdout)["manifest"]["sweep_id"] == files.sweep_id
    assert json.loads(cli("replay", "latest", 2, "--json").stdout)["agrees"] is True

    best = json.loads(cli("best", "my sweep", "--json").stdout)
    [first, *_] = json.loads(cli("show", "latest", "--json").stdout)["best trials"]
    assert (best["trial"], best["value"]) == (first["trial"], first["final_loss"])
    told = cli("best", "latest").stdout
    assert strict_yaml.read(told, "told") == {"parameters": best["parameters"], "seeds": best["seeds"]}
    options = shlex.split(told.splitlines()[-1].removeprefix("# "))
    again = json.loads(cli("run", path, *INLINE, "--json", "--fresh", *options).stdout)
    assert again["trials"] == 1
    [trial] = store.find(again["sweep_id"]).shards.read(0).to_pylist()
    assert (trial["trial_id"], trial["final_loss"]) == (best["trial_id"], best["value"])

    assert cli("open", files.sweep_id, DISPLAY="", WAYLAND_DISPLAY="").stdout == f"{ran['report']}\n"
    assert f"would remove {files.sweep_id}" in cli("rm", files.sweep_id, code=2).stderr
    assert "its runs in MLflow stay" in cli("rm", files.sweep_id, "--yes").stdout
    assert [sweep.sweep_id for sweep in store.sweeps()] == [again["sweep_id"]]
    client = MlflowClient(store.tracking_uri)
    assert client.get_run(ran["logged to"][0]["run_id"]).info.lifecycle_stage == "active"
    assert "does not run: it is reported" in cli("stop", "latest").stdout


def test_a_running_sweep_is_stopped_not_removed(cli: Cli, config: Callable[..., Path], store: Store) -> None:
    path = config(
        parameters={"lr": {"min": 0.001, "max": 0.02, "count": 3200}},
        training={"epochs": 20_000},
        execution={"trials_per_shard": 1},
    )
    process = cli.start("run", path, *INLINE, "--json")
    try:
        until(lambda: any(files.shards.done() for files in store.sweeps()))
        [files] = store.sweeps()
        assert f"stop it with: sweeps stop {files.sweep_id}" in cli("rm", "latest", "--yes", code=2).stderr
        assert f"stopping process {process.pid}" in cli("stop", "latest").stdout
        out, err = process.communicate(timeout=120)
    finally:
        process.send_signal(signal.SIGKILL)
    assert process.returncode == 130, err
    assert json.loads(out)["state"] == "interrupted"
