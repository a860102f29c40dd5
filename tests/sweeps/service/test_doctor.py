"""The doctor: what is well is said so, what is not comes with a remedy, and whatever hangs or crashes is a finding."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import formatdate
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from sweeps.errors import ExecutorError, TrackingError
from sweeps.service import doctor
from sweeps.service.doctor import Check, ServiceSettings, run_check
from sweeps.store.store import Store
from sweeps.tracking.mlflow.health import skew
from tests.support.command_line import Cli
from tests.support.postgres import Cluster
from tests.support.serving import serving
from tests.support.tracking import TrackingServer

SECRET = "s3cret"


def examined(patient: ServiceSettings, *names: str) -> list[Check]:
    """Some of the checks."""
    return [run_check(name, partial(doctor._CHECKS[name][0], patient), 60) for name in names]


@pytest.mark.slow
def test_this_machine_is_well(cli: Cli, store: Store, tracking_server: TrackingServer) -> None:
    """The tests could not run where it is not."""
    found = {check["name"]: check for check in json.loads(cli("doctor", "--json").stdout)}
    assert {name for name, check in found.items() if check["status"] == "failed"} == set()
    assert found["versions"]["found"].startswith("sgd-sweeps ")
    assert found["ray"]["found"].startswith("local Ray: 1 node")
    assert found["store"]["found"].startswith(f"{store.root}: ")
    done = cli("doctor", "--address", "127.0.0.1:1", "--tracking-uri", tracking_server.uri, code=4)
    assert done.stderr == "error: failed checks: ray\n"
    for name in found:
        assert f" {name}: " in done.stdout
    assert f"     ok  tracking: {tracking_server.uri}: experiments can be read; writer client" in done.stdout
    assert " failed  ray: Ray at 127.0.0.1:1 cannot be joined" in done.stdout
    assert "         check that the head is running, and that RAY_AUTH_MODE" in done.stdout


def test_what_crashes_or_hangs_is_a_failed_check() -> None:
    def crash() -> str:
        raise ZeroDivisionError(f"postgresql://me:{SECRET}@host/db")

    assert run_check("x", crash, 10) == Check("x", "failed", "ZeroDivisionError: postgresql://me:***@host/db")
    for error in (ExecutorError("no Ray"), TrackingError("no MLflow")):
        check = run_check("x", lambda error=error: (_ for _ in ()).throw(error), 10)  # type: ignore[misc]
        assert (check.status, check.found) == ("failed", str(error))
    forever = threading.Event()
    check = run_check("x", lambda: str(forever.wait()), 0.2)
    assert (check.status, check.found) == ("failed", "no answer within 0.2 s")
    forever.set()


def test_versions_out_of_range_are_named(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    [check] = examined(ServiceSettings(store), "versions")
    assert check.status == "ok"
    real = doctor.version
    monkeypatch.setattr(doctor, "version", lambda name: "2.0" if name == "mlflow" else real(name))
    [check] = examined(ServiceSettings(store), "versions")
    assert (check.status, check.found) == ("failed", "mlflow 2.0 is not <4,>=3.10")
    assert "constraints.txt" in check.remedy


def test_a_store_is_looked_at_and_not_made(tmp_path: Path) -> None:
    checks = examined(
        ServiceSettings(Store(tmp_path / "a" / "b")), "store", "locks", "permissions", "tracking", "clock"
    )
    assert [check.status for check in checks] == ["ok"] * 5
    assert "(not created yet)" in checks[0].found
    assert not list(tmp_path.iterdir())


def test_what_is_wrong_with_a_store_comes_with_a_remedy(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.root.chmod(0o777)
    [check] = examined(ServiceSettings(store), "permissions")
    assert (check.status, check.remedy) == ("warning", f"run chmod o-w {store.root}")
    monkeypatch.setattr("os.access", lambda path, mode: path != store.database)  # root may write everywhere
    [check] = examined(ServiceSettings(store), "permissions")
    assert (check.status, check.found) == ("failed", f"{store.database}: cannot be written by this user")
    for free, status in ((10**12, "ok"), (10**9, "warning"), (10**6, "failed")):
        monkeypatch.setattr("shutil.disk_usage", lambda _, free=free: type("Usage", (), {"free": free}))
        assert examined(ServiceSettings(store), "store")[0].status == status
    monkeypatch.setattr("fcntl.flock", lambda file, how: None)  # as on a mount with nolock
    [check] = examined(ServiceSettings(store), "locks")
    assert (check.status, check.found) == ("failed", f"{store.root}: two processes can hold the same lock")
    assert not list(store.root.glob(".probe*"))


@contextmanager
def clock(seconds: float) -> Iterator[str]:
    """The address of a server whose clock is ahead."""

    class Handler(BaseHTTPRequestHandler):
        def date_time_string(self, timestamp: float | None = None) -> str:
            return formatdate(time.time() + seconds, usegmt=True)

        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with serving(HTTPServer(("127.0.0.1", 0), Handler)) as address:
        yield address.replace("//", f"//me:{SECRET}@")


@pytest.mark.parametrize(("seconds", "status"), [(0, "ok"), (60, "warning"), (-60, "warning"), (3600, "failed")])
def test_clocks_are_held_against_each_other(store: Store, seconds: float, status: str) -> None:
    with clock(seconds) as uri:
        assert skew(uri, None) == pytest.approx(seconds, abs=3)
        [check] = examined(ServiceSettings(store, tracking_uri=uri), "clock")
    assert check.status == status
    assert bool(check.remedy) == (status != "ok")


@pytest.mark.slow
def test_a_database_has_a_clock_and_a_wrong_password_is_not_told(store: Store, postgres: Cluster) -> None:
    uri = postgres.new_database()
    assert skew(uri, None) == pytest.approx(0, abs=3)
    well = examined(ServiceSettings(store, tracking_uri=uri), "tracking", "clock", "postgresql driver")
    assert [check.status for check in well] == ["ok"] * 3, well
    assert "writer bulk" in well[0].found
    wrong = uri.replace(postgres.password, SECRET)
    checks = examined(ServiceSettings(store, tracking_uri=wrong), "tracking", "clock")
    assert [check.status for check in checks] == ["failed"] * 2
    for check in checks:
        assert "password authentication failed" in check.found
        assert f":{SECRET}@" not in check.found
    assert SECRET not in repr(ServiceSettings(store, tracking_uri=wrong))
