"""The examples for cron, Slurm and Kubernetes, held against real shells, linters, schemas and the command line."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from cronsim import CronSim
from typer.main import get_command

from sweeps.cli import app
from tests.support.documents import ROOT

FOLDER = ROOT / "deploy" / "cluster"
# Stands for any program: writes down what it was called with, and does what the test says.
NOTE = """#!/bin/sh
printf '%s\\0' "$0" "$@" >> "$NOTES"
printf '\\1' >> "$NOTES"
"""


def parsed(arguments: list[str]) -> dict[str, Any]:
    """The command's parameters, as the real command line reads them; nothing is run."""
    command, names = get_command(app), []
    context = None
    while True:
        context = command.make_context("sweeps", arguments, parent=context)
        names.append(command.name)
        if not hasattr(command, "resolve_command"):
            return {"command": " ".join(str(name) for name in names[1:]), **context.params}
        _, command, arguments = command.resolve_command(context, [*context._protected_args, *context.args])
        assert command is not None


class Programs:
    """A folder of programs that stand for real ones."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.notes = folder, folder / "notes"
        self.folder.mkdir()
        self.write("sweeps", NOTE)

    def write(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text)
        (self.folder / name).chmod(0o755)

    @property
    def environment(self) -> dict[str, str]:
        path = f"{self.folder}{os.pathsep}{os.environ['PATH']}"
        return {**os.environ, "PATH": path, "NOTES": str(self.notes)}

    def calls(self) -> list[list[str]]:
        """What ``sweeps`` was called with."""
        text = self.notes.read_text() if self.notes.exists() else ""
        return [call.split("\0")[1:-1] for call in text.split("\1")[:-1]]


@pytest.fixture
def programs(tmp_path: Path) -> Programs:
    return Programs(tmp_path / "bin")


def test_the_crontab(programs: Programs) -> None:
    commands = []
    for line in (FOLDER / "crontab").read_text().splitlines():
        if not line or line.startswith("#") or re.match(r"[A-Z_]+=", line):
            continue
        *times, command = line.split(None, 5)
        next(CronSim(" ".join(times), datetime.now(UTC)))
        assert re.search(r"(?<!\\)%", command) is None, "cron takes a bare % for the end of the line"
        commands.append(command.replace("\\%", "%").partition(" >> ")[0])
    assert len(commands) == 3
    for command in commands:
        subprocess.run(["sh", "-c", command], env=programs.environment, check=True)
    nightly, map_, scheduler = map(parsed, programs.calls())
    assert (nightly["command"], nightly["tag"]) == ("run", ["schedule=cron"])
    assert re.fullmatch(r"\d{8}", nightly["id_"])
    assert (map_["command"], map_["address"]) == ("submit", "http://ray-head:8265")
    assert re.fullmatch(r"map-\d{4}-\d\d", map_["submission_id"])
    assert (scheduler["command"], scheduler["once"]) == ("schedule run", True)


SBATCH = FOLDER / "slurm.sbatch"
SLURM = {
    "SLURM_JOB_ID": "4711",
    "SLURM_JOB_NODELIST": "n[1-4]",
    "SLURM_JOB_NUM_NODES": "4",
    "SLURM_CPUS_PER_TASK": "32",
}


def test_the_sbatch_script_is_clean() -> None:
    subprocess.run(["bash", "-n", SBATCH], check=True)
    linter = Path(sys.executable).parent / "shellcheck"
    found = subprocess.run(
        [linter, "--enable=all", "--exclude=SC1091,SC2250,SC2310,SC2312", SBATCH], capture_output=True
    )
    assert found.returncode == 0, found.stdout.decode()
    head = SBATCH.read_text().partition("\nset -euo")[0].splitlines()
    assert head[0] == "#!/bin/bash"
    assert all(line.startswith("#") for line in head), "Slurm reads its options up to the first command only"


def slurm(programs: Programs, tmp_path: Path) -> dict[str, str]:
    programs.write("scontrol", "#!/bin/sh\nprintf 'n1\\nn2\\nn3\\nn4\\n'\n")
    programs.write("srun", '#!/bin/sh\nexec "$@"\n')
    programs.write("ray", '#!/bin/sh\nwhile [ "$1" != -- ]; do shift; done\nshift\nexec "$@"\n')
    (tmp_path / "venv" / "bin").mkdir(parents=True)
    (tmp_path / "venv" / "bin" / "activate").touch()
    home = {"HOME": str(tmp_path), "SWEEPS_ENVIRONMENT": str(tmp_path / "venv")}
    return {**programs.environment, **SLURM, **home}


def test_the_sbatch_script_runs_the_sweep(programs: Programs, tmp_path: Path) -> None:
    token = tmp_path / ".ray-token-4711"
    programs.write("sweeps", NOTE + 'stat -c %a "$RAY_AUTH_TOKEN_PATH" > "$HOME/mode"\nexit 3\n')
    config = ROOT / "configs" / "seed.yaml"
    done = subprocess.run(["bash", SBATCH, config], env=slurm(programs, tmp_path), capture_output=True)
    assert done.returncode == 3, done.stderr.decode()  # the sweep's
    [call] = programs.calls()
    assert parsed(call)["command"] == "run"
    assert (parsed(call)["config"], parsed(call)["id_"]) == (config, "4711")
    assert parsed(call)["address"] == "n1:24711"
    assert (tmp_path / "mode").read_text() == "600\n"
    assert not token.exists()


def test_slurms_signal_reaches_the_sweep(programs: Programs, tmp_path: Path) -> None:
    waits = "trap 'exit 130' TERM\n: > \"$HOME/started\"\nwhile :; do sleep 0.02; done\n"
    programs.write("sweeps", NOTE + waits)
    process = subprocess.Popen(["bash", SBATCH, ROOT / "configs" / "seed.yaml"], env=slurm(programs, tmp_path))
    until = time.monotonic() + 60
    while not (tmp_path / "started").exists() and time.monotonic() < until:
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 130
    assert not (tmp_path / ".ray-token-4711").exists()


@pytest.mark.parametrize("name", ["rayjob.yaml", "raycronjob.yaml"])
def test_the_manifests_are_as_kuberay_and_kubernetes_have_them(name: str, programs: Programs) -> None:
    import kubernetes_validate

    schema = json.loads((ROOT / "tests" / "deploy" / "kuberay.json").read_text())
    manifest = yaml.safe_load((FOLDER / name).read_text())
    assert manifest["apiVersion"] == "ray.io/v1"
    jsonschema.validate(manifest, schema | {"$ref": f"#/$defs/{manifest['kind']}"})
    spec = manifest["spec"]
    if manifest["kind"] == "RayCronJob":
        next(CronSim(spec["schedule"], datetime.now(UTC)))
        spec = spec["jobTemplate"]
    groups = [spec["rayClusterSpec"]["headGroupSpec"], *spec["rayClusterSpec"]["workerGroupSpecs"]]
    for group in groups:
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, **group["template"]}
        kubernetes_validate.validate(pod, kubernetes_validate.latest_version(), strict=True)
    subprocess.run(["sh", "-c", spec["entrypoint"]], env=programs.environment, check=True)
    [call] = programs.calls()
    assert parsed(call)["command"] == "run"
    assert (parsed(call)["address"], parsed(call)["tag"]) == ("auto", ["cluster=kubernetes"])
    assert re.fullmatch(r"\d{8,10}", parsed(call)["id_"])


def test_a_wrong_manifest_is_seen() -> None:
    schema = json.loads((ROOT / "tests" / "deploy" / "kuberay.json").read_text())
    manifest = yaml.safe_load((FOLDER / "rayjob.yaml").read_text())
    manifest["spec"]["rayClusterSpec"]["headGroupSpec"]["rayStartParam"] = {}
    with pytest.raises(jsonschema.ValidationError, match="rayStartParam"):
        jsonschema.validate(manifest, schema | {"$ref": "#/$defs/RayJob"})
