"""Who may ask for what: hosts, origins, logins and headers, by HTTP; and the command, in a process of its own."""

from __future__ import annotations

import base64
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from werkzeug.security import check_password_hash, generate_password_hash

from dashboards.app import make_app
from dashboards.users import Users
from sweeps.errors import InputError
from sweeps.planning.prepared import PreparedSweep
from sweeps.report.files import write_report
from sweeps.results.results import load_results
from sweeps.service.monitoring.prometheus import CONTENT_TYPE
from sweeps.store.store import Store, SweepFiles
from tests.support.browser import Browser
from tests.support.command_line import Cli

CALLBACK = "/_dash-update-component"
PASSWORD = "correct horse"
HASH = generate_password_hash(PASSWORD, "pbkdf2:sha256:1000")  # quick to check; what is told apart is not how long


@pytest.fixture
def users_file(tmp_path: Path) -> Path:
    path = tmp_path / "users"
    path.write_text(f"# who may look\n\nann:{HASH}\nbob:{HASH}\n", encoding="utf-8")
    return path


@pytest.fixture
def guarded(tmp_path: Path, users_file: Path) -> FlaskClient:
    return make_app(Store(tmp_path / "store"), users=Users(users_file)).test_client()


@pytest.fixture
def open_to_all(tmp_path: Path) -> FlaskClient:
    return make_app(Store(tmp_path / "store")).test_client()


def basic(name: str, password: str) -> dict[str, str]:
    return {"Authorization": f"Basic {base64.b64encode(f'{name}:{password}'.encode()).decode()}"}


def log_in(client: FlaskClient, name: str = "ann", password: str = PASSWORD, **more: str) -> int:
    return client.post("/login", data={"name": name, "password": password, **more}).status_code


class TestHeaders:
    @pytest.mark.parametrize("path", ["/", "/healthz", "/sweeps/abcd", "/nowhere", "/assets/dashboard.css"])
    def test_on_every_answer(self, open_to_all: FlaskClient, path: str) -> None:
        with open_to_all.get(path) as answer:
            headers = answer.headers
        assert headers["X-Frame-Options"] == "DENY"
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Referrer-Policy"] == "same-origin"
        policy = dict(part.strip().split(" ", 1) for part in headers["Content-Security-Policy"].split(";"))
        assert policy["default-src"] == "'none'"
        assert policy["frame-ancestors"] == "'none'"
        assert re.fullmatch(r"'self'( 'sha256-[^']+')+", policy["script-src"])
        assert not re.search(r"https?:|\*|unsafe-eval", headers["Content-Security-Policy"])

    def test_no_debugger_no_agent_door(self, open_to_all: FlaskClient) -> None:
        assert open_to_all.get("/_mcp").status_code in (200, 404)
        assert b"mcp" not in open_to_all.get("/_mcp").data
        assert b'"hot_reload"' not in open_to_all.get("/").data

    def test_a_report_is_a_stranger(
        self, make_prepared: Callable[..., PreparedSweep], stored: Callable[[PreparedSweep], SweepFiles]
    ) -> None:
        files = stored(make_prepared())
        client = make_app(Store.of(files)).test_client()
        assert client.get(f"/sweeps/{files.sweep_id}/report.html").status_code == 404
        write_report(load_results(files))
        answer = client.get(f"/sweeps/{files.sweep_id[:4]}/report.html")
        assert answer.status_code == 200
        assert answer.text == (files.report.folder / "report.html").read_text(encoding="utf-8")
        assert answer.headers["Content-Security-Policy"].startswith("sandbox allow-scripts allow-downloads;")
        for path in ("ABCD", "1", "%00", "abcd1234%2f.."):
            assert client.get(f"/sweeps/{path}/report.html").text != answer.text


class TestHosts:
    @pytest.mark.parametrize("host", ["localhost", "localhost:8050", "127.0.0.1:1", "[::1]:8050", "LOCALHOST"])
    def test_this_machine(self, open_to_all: FlaskClient, host: str) -> None:
        assert open_to_all.get("/", headers={"Host": host}).status_code == 200

    @pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "127.0.0.1.nip.io", ""])
    def test_others_are_refused(self, open_to_all: FlaskClient, host: str) -> None:
        for path in ("/", "/_dash-layout", "/assets/dashboard.css"):
            assert open_to_all.get(path, headers={"Host": host}).status_code == 400

    def test_allowed_ones(self, tmp_path: Path) -> None:
        client = make_app(Store(tmp_path), hosts=["sweeps.example.org"]).test_client()
        assert client.get("/", headers={"Host": "sweeps.example.org"}).status_code == 200
        assert client.get("/", headers={"Host": "localhost"}).status_code == 400

    def test_health_is_for_whoever_asks(self, guarded: FlaskClient) -> None:
        answer = guarded.get("/healthz", headers={"Host": "10.0.0.7:8050"})
        assert (answer.status_code, answer.text) == (200, "ok\n")

    def test_metrics_are_for_whoever_has_a_login(self, guarded: FlaskClient, open_to_all: FlaskClient) -> None:
        elsewhere = {"Host": "10.0.0.7:8050"}
        assert guarded.get("/metrics", headers=elsewhere).status_code == 401
        answer = open_to_all.get("/metrics", headers=elsewhere)
        assert (answer.status_code, answer.content_type) == (200, CONTENT_TYPE)
        assert "sweeps_sweeps" in answer.text

    @pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://localhost:1"])
    def test_other_sites_cannot_ask(self, open_to_all: FlaskClient, origin: str) -> None:
        assert open_to_all.post(CALLBACK, json={}, headers={"Origin": origin}).status_code == 403


class TestLogin:
    @pytest.mark.parametrize("path", ["/_dash-layout", "/_dash-dependencies", "/sweeps/ab/report.html", CALLBACK])
    def test_strangers_are_refused(self, guarded: FlaskClient, path: str) -> None:
        answer = guarded.post(path, json={}) if path == CALLBACK else guarded.get(path)
        assert answer.status_code == 401
        assert answer.headers["WWW-Authenticate"].startswith("Basic")
        assert "WWW-Authenticate" not in guarded.get(path, headers={"Sec-Fetch-Mode": "cors"}).headers

    def test_a_page_leads_to_the_login_and_back(self, guarded: FlaskClient) -> None:
        answer = guarded.get("/sweeps/abcd?trial=3", headers={"Accept": "text/html"})
        assert answer.status_code == 302
        assert answer.headers["Location"] == "/login?next=%2Fsweeps%2Fabcd%3Ftrial%3D3"
        assert b'value="/sweeps/abcd?trial=3"' in guarded.get(answer.headers["Location"]).data
        entered = guarded.post("/login", data={"name": "ann", "password": PASSWORD, "next": "/sweeps/abcd?trial=3"})
        assert (entered.status_code, entered.headers["Location"]) == (303, "/sweeps/abcd?trial=3")
        cookie = entered.headers["Set-Cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=Strict" in cookie
        assert guarded.get("/_dash-layout").status_code == 200
        assert guarded.get("/login/session").json == {"user": "ann"}
        assert guarded.post("/logout").status_code == 303
        assert guarded.get("/_dash-layout").status_code == 401

    @pytest.mark.parametrize("target", ["https://evil.example/", "//evil.example", "/\\evil.example", "javascript:x"])
    def test_nobody_is_sent_elsewhere(self, guarded: FlaskClient, target: str) -> None:
        answer = guarded.post("/login", data={"name": "ann", "password": PASSWORD, "next": target})
        assert answer.headers["Location"] == "/"

    @pytest.mark.parametrize(("name", "password"), [("ann", "wrong"), ("eve", PASSWORD), ("", ""), ("ann", "")])
    def test_wrong_ones_are_refused(self, guarded: FlaskClient, name: str, password: str) -> None:
        assert log_in(guarded, name, password) == 401
        assert guarded.get("/_dash-layout", headers=basic(name, password)).status_code == 401

    def test_scripts_send_it_with_every_request(self, guarded: FlaskClient) -> None:
        for _ in range(2):
            assert guarded.get("/_dash-layout", headers=basic("bob", PASSWORD)).status_code == 200
        assert guarded.get("/_dash-layout").status_code == 401

    def test_guessing_is_slowed(self, guarded: FlaskClient) -> None:
        assert [log_in(guarded, password=str(i)) for i in range(10)] == [401] * 10
        assert log_in(guarded) == 429
        assert guarded.get("/_dash-layout", headers=basic("ann", PASSWORD)).status_code == 401

    def test_a_session_ends_with_its_user(self, guarded: FlaskClient, users_file: Path) -> None:
        log_in(guarded)
        assert guarded.get("/_dash-layout").status_code == 200
        users_file.write_text(f"ann:{generate_password_hash('another', 'pbkdf2:sha256:1000')}\n", encoding="utf-8")
        assert guarded.get("/_dash-layout").status_code == 401
        users_file.unlink()
        assert log_in(guarded, password="another") == 401

    def test_a_forged_session_is_none(self, guarded: FlaskClient, tmp_path: Path, users_file: Path) -> None:
        other = make_app(Store(tmp_path / "store"), users=Users(users_file)).test_client()
        log_in(other)
        cookie = other.get_cookie("sweeps")
        assert cookie is not None
        guarded.set_cookie("sweeps", cookie.value)
        assert guarded.get("/_dash-layout").status_code == 401

    @pytest.mark.parametrize("line", ["ann", "ann:secret", f":{HASH}", f"ann:{HASH}\nann:{HASH}", "# nobody"])
    def test_bad_files_are_told_without_their_secrets(self, users_file: Path, line: str) -> None:
        users_file.write_text(f"{line}\n", encoding="utf-8")
        with pytest.raises(InputError) as caught:
            Users(users_file)
        assert str(users_file) in str(caught.value)
        assert "\n" not in str(caught.value)
        assert "secret" not in str(caught.value)

    def test_in_a_browser(self, cli: Cli, users_file: Path, browser: Browser) -> None:
        dashboard = cli.start("dashboard", "--port", 0, "--users-file", users_file)
        try:
            address = _address(dashboard)

            def look(page: Any) -> list[str]:
                assert page.url.endswith("/login?next=%2F")
                told = []
                for password in ("wrong", PASSWORD):
                    page.fill("#name", "ann")
                    page.fill("#password", password)
                    page.click("button")
                    told.append(page.locator(".notice, .user").first.text_content())
                page.click("text=Log out")
                page.wait_for_url("**/login*")
                told.append(page.locator("h1").text_content())
                return told

            told = browser.visit(address, look, allowed="status of 401")
            assert told == ["Wrong name or password.", "ann", "Log in"]
            dashboard.send_signal(signal.SIGTERM)
            assert dashboard.wait(timeout=30) == 0
        finally:
            dashboard.kill()
            dashboard.communicate()


class TestCommand:
    def test_serves_until_it_is_interrupted_and_writes_nothing(self, cli: Cli) -> None:
        before = sorted(path for path in cli.folder.rglob("*"))
        dashboard = cli.start("dashboard", "--port", 0)
        try:
            address = _address(dashboard)
            with urllib.request.urlopen(f"{address}/healthz", timeout=30) as answer:
                assert answer.read() == b"ok\n"
                assert "Server" not in answer.headers or "waitress" not in answer.headers["Server"]
            dashboard.send_signal(signal.SIGINT)
            _, err = dashboard.communicate(timeout=30)
            assert (dashboard.returncode, err) == (0, "")
        finally:
            dashboard.kill()
        assert sorted(path for path in cli.folder.rglob("*")) == before

    def test_connections_that_send_no_request_stop_nobody(self, cli: Cli) -> None:
        """They send nothing or half a request."""
        dashboard = cli.start("dashboard", "--port", 0)
        try:
            address = _address(dashboard)
            place = ("127.0.0.1", int(address.rpartition(":")[2]))
            with ExitStack() as stack:
                connections = [stack.enter_context(socket.create_connection(place, timeout=60)) for _ in range(150)]
                for connection in connections[::2]:
                    connection.sendall(b"GET / HT")
                with urllib.request.urlopen(f"{address}/healthz", timeout=30) as answer:
                    assert answer.read() == b"ok\n"
                # The oldest make room for the newest; the others are closed when their time is over.
                assert [connection.recv(1) for connection in connections] == [b""] * 150
            dashboard.send_signal(signal.SIGINT)
            _, err = dashboard.communicate(timeout=30)
            assert (dashboard.returncode, err) == (0, "")
        finally:
            dashboard.kill()

    def test_is_not_for_others_without_users(self, cli: Cli) -> None:
        done = cli("dashboard", "--host", "0.0.0.0", "--port", 0, code=2)
        assert done.stderr.count("\n") == 1
        assert "--users-file" in done.stderr

    def test_hashes_passwords(self) -> None:
        command = [Path(sys.executable).parent / "sweeps", "dashboard", "--hash-password"]
        done = subprocess.run(command, input="tröt\n", capture_output=True, text=True, timeout=60, check=True)
        assert done.stdout.count("\n") == 1
        assert check_password_hash(done.stdout.strip(), "tröt")
        empty = subprocess.run(command, input="\n", capture_output=True, text=True, timeout=60, check=False)
        assert empty.returncode == 2


def _address(dashboard: subprocess.Popen[str]) -> str:
    assert dashboard.stdout is not None
    told = dashboard.stdout.readline()
    found = re.search(r"http://127\.0\.0\.1:\d+", told)
    assert found, told
    return found[0]
