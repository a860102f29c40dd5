"""Locked doors: MLflow lets in whom it knows, PostgreSQL's users do what they need only, and no secret is kept."""

import json
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
import requests
import yaml

from sweeps.tracking.mlflow.writer_choice import choose
from tests.deploy.conftest import ServiceStack
from tests.support.command_line import Cli
from tests.support.documents import document

pytestmark = pytest.mark.slow

EXPERIMENTS = "/api/2.0/mlflow/experiments/search"


@pytest.fixture
def sweep_file(tmp_path: Path, request: pytest.FixtureRequest) -> Callable[..., Path]:
    """Writes a sweep file, with an experiment of the test's own."""

    def write(**changes: object) -> Path:
        path = tmp_path / "sweep.yaml"
        path.write_text(yaml.safe_dump(document(name=request.node.name, **changes)))
        return path

    return write


def run(cli: Cli, sweep: Path, *options: str, code: int = 0, **environment: str) -> str:
    done = cli("run", sweep, "--executor", "inline", *options, code=code, **environment)
    return done.stderr if code else done.stdout


def test_without_a_login_nothing_is_answered_but_that_the_server_lives(service_stack: ServiceStack) -> None:
    assert requests.get(f"{service_stack.uri}/health", timeout=10).text == "OK"
    for path in (
        "/",
        EXPERIMENTS,
        "/metrics",
        "/api/2.0/mlflow-artifacts/artifacts",
        "/ajax-api/2.0/mlflow/users/list",
    ):
        for login in (None, ("admin", "password1234"), ("nobody", "x")):
            assert requests.get(f"{service_stack.uri}{path}", auth=login, timeout=10).status_code == 401, (path, login)


def test_a_page_of_another_site_cannot_speak_through_the_browser(service_stack: ServiceStack) -> None:
    admin = ("admin", service_stack.secret("mlflow_admin"))
    answer = requests.get(f"{service_stack.uri}{EXPERIMENTS}", auth=admin, headers={"Host": "evil.example"}, timeout=10)
    assert answer.status_code == 403


def test_the_administrator_sees_the_metrics(service_stack: ServiceStack) -> None:
    answer = requests.get(
        f"{service_stack.uri}/metrics", auth=("admin", service_stack.secret("mlflow_admin")), timeout=10
    )
    assert answer.status_code == 200
    assert "mlflow_" in answer.text


@pytest.mark.parametrize(
    ("user", "password", "message"),
    [
        ("", "", "requires a login: set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"),
        ("sweeps", "wrong", "rejects the user 'sweeps' or the password"),
        ("viewer", None, "the user 'viewer' is not allowed to create experiments"),
    ],
)
def test_who_may_not_log_is_told_before_anything_is_computed(
    service_stack: ServiceStack,
    cli: Cli,
    sweep_file: Callable[..., Path],
    user: str,
    password: str | None,
    message: str,
) -> None:
    login = {"MLFLOW_TRACKING_USERNAME": user, "MLFLOW_TRACKING_PASSWORD": password} if user else {}
    if password is None:
        login = service_stack.login(user)
    said = run(cli, sweep_file(), code=2, **{"MLFLOW_TRACKING_URI": service_stack.uri, **login})
    assert said.count("\n") == 1
    assert said.startswith("error: " + service_stack.uri) or service_stack.uri in said
    assert message in said
    assert not list((cli.folder / "store" / "sweeps").glob("*"))


def test_the_viewer_looks_and_does_not_touch(
    service_stack: ServiceStack, cli: Cli, sweep_file: Callable[..., Path]
) -> None:
    sweep = sweep_file()
    run(cli, sweep, **service_stack.login("sweeps"))
    assert "can read the experiment" in run(cli, sweep, code=2, **service_stack.login("viewer"))
    viewer = ("viewer", service_stack.secret("mlflow_viewer"))

    def call(path: str, **body: object) -> requests.Response:
        return requests.post(f"{service_stack.uri}/api/2.0/mlflow/{path}", json=body, auth=viewer, timeout=10)

    found = call("experiments/search", max_results=1000).json()["experiments"]
    [experiment] = [one for one in found if one["name"].startswith("test_the_viewer")]
    number = experiment["experiment_id"]
    runs = call("runs/search", experiment_ids=[number]).json()["runs"]
    assert len(runs) == 13
    run_id = runs[0]["info"]["run_id"]
    for path, body in {
        "experiments/create": {"name": "mine"},
        "experiments/delete": {"experiment_id": number},
        "runs/create": {"experiment_id": number},
        "runs/delete": {"run_id": run_id},
        "runs/log-metric": {"run_id": run_id, "key": "loss", "value": 0, "timestamp": 0},
        "runs/set-tag": {"run_id": run_id, "key": "mlflow.note.content", "value": ""},
        "registered-models/create": {"name": "mine"},
        "users/create": {"username": "me", "password": "passwordpassword"},
    }.items():
        assert call(path, **body).status_code == 403, path


@pytest.mark.parametrize("writer", ["bulk", "client"])
def test_a_sweep_is_logged_by_users_with_the_least_rights_and_keeps_no_secret(
    service_stack: ServiceStack, cli: Cli, sweep_file: Callable[..., Path], writer: str
) -> None:
    database = service_stack.database("sweeps_writer")
    said = run(
        cli,
        sweep_file(tracking={"writer": writer, "database": "$TRACKED_IN"}),
        TRACKED_IN=database,
        SWEEPS_TRACKING_DATABASE=database,
        **service_stack.login("sweeps"),
    )
    assert f"writer:   {writer}" in said
    [sweep] = json.loads(cli("list", "--json").stdout)
    verified = cli("verify", sweep["id"], TRACKED_IN=database, **service_stack.login("sweeps")).stdout
    secrets = [service_stack.secret("mlflow_sweeps"), service_stack.secret("postgres_sweeps_writer")]
    assert not any(secret in said + verified for secret in secrets)
    assert_nowhere(secrets, cli.folder / "store", service_stack)


def test_a_password_in_the_address_is_used_and_not_kept(
    service_stack: ServiceStack, cli: Cli, sweep_file: Callable[..., Path]
) -> None:
    secret = service_stack.secret("mlflow_sweeps")
    address = service_stack.uri.replace("://", f"://sweeps:{secret}@")
    said = run(cli, sweep_file(), "--tracking-uri", address)
    assert f"tracking: {service_stack.uri.replace('://', '://sweeps:***@')}" in said
    assert secret not in said
    assert_nowhere([secret], cli.folder / "store", service_stack)


def test_least_rights(service_stack: ServiceStack) -> None:
    allowed = {
        "sweeps_writer": ["SELECT count(*) FROM runs", "SELECT name FROM experiments FOR SHARE"],
        "sweeps_reader": ["SELECT count(*) FROM runs", "SELECT count(*) FROM registered_models"],
    }
    refused = {
        "sweeps_writer": [
            "DELETE FROM runs",
            "UPDATE runs SET status = 'FAILED'",
            "UPDATE experiments SET name = 'mine'",
            "INSERT INTO experiments (name) VALUES ('mine')",
            "TRUNCATE metrics",
            "SELECT * FROM registered_models",
            "CREATE TABLE mine (x int)",
            "SET session_replication_role = replica",
        ],
        "sweeps_reader": [
            "INSERT INTO tags (key, run_uuid) VALUES ('x', 'x')",
            "DELETE FROM runs",
            "SELECT * FROM secrets",
            "CREATE TEMPORARY TABLE mine (x int)",
        ],
    }
    for user, statements in allowed.items():
        with psycopg.connect(service_stack.database(user)) as connection:
            for statement in statements:
                connection.execute(statement.encode())
    for user, statements in refused.items():
        for statement in statements:
            # Also for a reader that has switched off what stops it from writing by accident.
            options = "-c default_transaction_read_only=off"
            with (
                pytest.raises(psycopg.errors.InsufficientPrivilege),
                psycopg.connect(service_stack.database(user), options=options) as connection,
            ):
                connection.execute(statement.encode())
        with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
            psycopg.connect(service_stack.database(user, "mlflow_auth"))


def test_a_database_user_who_may_only_read_gets_the_client(service_stack: ServiceStack) -> None:
    assert "lacks the INSERT privilege" in choose(service_stack.database("sweeps_reader"), "auto").reason


def assert_nowhere(secrets: list[str], store: Path, service_stack: ServiceStack) -> None:
    """No secret is in a file of the store, of MLflow's artifacts or of a server's log, or in a row of MLflow's."""
    folder = service_stack.secrets.parent
    files = [path for root in (store, folder / "artifacts", folder) for path in root.rglob("*") if path.is_file()]
    read = [path for path in files if service_stack.secrets not in path.parents]
    assert len(read) > 5
    for path in read:
        content = path.read_bytes()
        assert not any(secret.encode() in content for secret in secrets), path
    with psycopg.connect(service_stack.database("mlflow")) as connection:
        tables = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
        for (table,) in tables:
            for secret in secrets:
                found = connection.execute(
                    f'SELECT 1 FROM "{table}" AS t WHERE t::text LIKE %s'.encode(), (f"%{secret}%",)
                )
                assert found.fetchone() is None, table
