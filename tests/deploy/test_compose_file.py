"""The compose file, held against what SECURITY.md promises, as Compose itself reads it; and `make secrets`."""

import json
import re
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from werkzeug.security import check_password_hash

from tests.deploy.conftest import make_secrets
from tests.support.documents import ROOT

COMPOSE = Path(sys.executable).parent / "docker-compose"
PUBLISHED = {("mlflow", "5000"), ("dashboard", "8050"), ("ray-head", "8265")}


def read(*options: str) -> dict[str, Any]:
    command = [COMPOSE, "--file", ROOT / "docker-compose.yml", "--env-file", "/dev/null", *options]
    done = subprocess.run(
        [*command, "config", "--format", "json"], capture_output=True, text=True, check=False, env={"PATH": "/usr/bin"}
    )
    assert (done.returncode, done.stderr) == (0, "")
    document: dict[str, Any] = json.loads(done.stdout)
    return document


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    return read("--profile", "*")


def test_the_profiles_add_what_they_say() -> None:
    standard = {"postgres", "mlflow", "ray-head", "ray-worker", "scheduler", "dashboard"}
    assert read()["services"].keys() == standard
    assert read("--profile", "gpu")["services"].keys() == standard | {"ray-worker-gpu"}
    assert read("--profile", "s3")["services"].keys() == standard | {"s3"}


def test_three_ports_are_published_on_loopback(compose: dict[str, Any]) -> None:
    ports = [(name, port) for name, service in compose["services"].items() for port in service.get("ports", [])]
    assert {(name, port["published"]) for name, port in ports} == PUBLISHED
    assert all(port["host_ip"] == "127.0.0.1" for _, port in ports)
    assert compose["networks"]["inner"]["internal"] is True
    edge = {name for name, service in compose["services"].items() if "edge" in service["networks"]}
    assert edge == {name for name, _ in PUBLISHED}


def test_every_service_is_watched_limited_and_without_rights(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        uid = int(service["user"].partition(":")[0])
        assert uid > 0, name
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert "cap_add" not in service, name
        assert "privileged" not in service, name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["deploy"]["resources"]["limits"].keys() == {"cpus", "memory", "pids"}, name
        assert not any(volume["source"].endswith("docker.sock") for volume in service.get("volumes", [])), name
        if name == "operator":  # a command and its end
            assert service["restart"] == "no"
            continue
        assert service["restart"] == "unless-stopped", name
        assert service["healthcheck"]["test"][0] == "CMD", name


def test_all_start_when_what_they_need_is_healthy(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        for other, how in service.get("depends_on", {}).items():
            assert how["condition"] == "service_healthy", (name, other)
    needs = {name: set(service.get("depends_on", {})) for name, service in compose["services"].items()}
    assert needs["mlflow"] == {"postgres", "s3"}
    assert needs["ray-worker"] == needs["ray-worker-gpu"] == needs["scheduler"] == {"ray-head"}


def test_no_secret_is_in_a_file(compose: dict[str, Any]) -> None:
    files = {secret["file"] for secret in compose["secrets"].values()}
    given = {secret["source"] for service in compose["services"].values() for secret in service.get("secrets", [])}
    assert given == compose["secrets"].keys()
    for file in (*files, ROOT / ".env"):
        ignored = subprocess.run(["git", "check-ignore", "--quiet", file], cwd=ROOT, check=False)
        assert ignored.returncode == 0, file
    for name, service in compose["services"].items():
        for variable, value in service.get("environment", {}).items():
            assert "://" not in value or "@" not in value or not re.search(r"://[^/@]*:[^/@]*@", value), (
                name,
                variable,
            )
            if re.search(r"PASSWORD|TOKEN|SECRET|KEY|USERS", variable):
                assert variable.endswith(("_FILE", "_PATH")), (name, variable)
                assert value.startswith("/run/secrets/"), (name, variable)


def test_every_process_of_ray_asks_for_the_token(compose: dict[str, Any]) -> None:
    for name in ("ray-head", "ray-worker", "ray-worker-gpu", "scheduler"):
        environment = compose["services"][name]["environment"]
        assert environment["RAY_AUTH_MODE"] == "token", name
        assert environment["RAY_AUTH_TOKEN_PATH"] == "/run/secrets/ray_token", name
    # Who trains needs no other secret.
    assert [secret["source"] for secret in compose["services"]["ray-worker"]["secrets"]] == ["ray_token"]


def test_images_are_pinned(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        assert re.search(r":v?\d+(\.\d+)+(-\w+)?$", service["image"]), name
    for line in (ROOT / "Dockerfile").read_text().splitlines():
        if line.startswith("FROM"):
            assert "${PYTHON}" in line
    assert re.search(r"^ARG PYTHON=3\.\d+\.\d+$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)


def test_what_can_be_set_is_in_the_example() -> None:
    used = re.findall(r"\$\{(\w+):-([^}]*)\}", (ROOT / "docker-compose.yml").read_text())
    shown = re.findall(r"^#(\w+)=(.*)$", (ROOT / ".env.example").read_text(), re.MULTILINE)
    assert set(shown) == set(used)
    assert len(shown) == len(set(shown))


def test_secrets_are_made_once(tmp_path: Path, compose: dict[str, Any]) -> None:
    folder = tmp_path / "secrets"
    (folder).mkdir()
    (folder / "ray_token").write_text("mine")
    said = make_secrets(folder)
    assert "ray_token" not in said
    made = {path.name: path.read_text() for path in folder.iterdir()}
    assert made.keys() == compose["secrets"].keys() | {"dashboard"}
    assert made["ray_token"] == "mine"
    random = [text for name, text in made.items() if name not in ("ray_token", "dashboard_users")]
    assert all(re.fullmatch(r"[0-9a-f]{64}", text) for text in random)
    assert len(set(random)) == len(random)
    assert not any(text in said for text in made.values())
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE((folder / name).stat().st_mode) for name in made if name != "ray_token"} == {0o444}
    user, _, hashed = made["dashboard_users"].strip().partition(":")
    assert user == "sweeps"
    assert check_password_hash(hashed, made["dashboard"])
    assert make_secrets(folder) == f"{folder}: all secrets exist\n"
    assert {path.name: path.read_text() for path in folder.iterdir()} == made


def test_a_command_gets_its_secrets_from_files(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("p w'\"$x\n")
    script = ROOT / "deploy" / "compose" / "image" / "with-secrets"

    def run(path: Path) -> subprocess.CompletedProcess[str]:
        environment = {"PATH": "/usr/bin:/bin", "PGPASSWORD_FILE": str(path)}
        command = [script, "sh", "-c", 'printf %s "$PGPASSWORD"']
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    assert run(tmp_path / "password").stdout == "p w'\"$x"
    missing = run(tmp_path / "nothing")
    assert (missing.returncode != 0, missing.stdout) == (True, "")
