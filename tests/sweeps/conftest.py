"""What the service's tests share: one Ray for the session, a migrated MLflow database to copy, small sweeps."""

import os
import re
import secrets
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import pytest

from sweeps import yaml
from sweeps.config import SweepConfig, parse
from sweeps.execute.base import Executor
from sweeps.execute.inline import InlineExecutor
from sweeps.execute.ray import RayExecutor
from sweeps.run import prepare
from sweeps.store import Store, SweepFiles
from sweeps.tracking.tracker import MlflowTracker
from sweeps.tracking.ui import mlflow_server
from sweeps.worker import ShardResult, Work, run_shard
from tests import s3
from tests.forked import Forked
from tests.postgres import Cluster, private_cluster
from tests.proxy import Proxy, proxy
from tests.s3 import S3Server

ROOT = Path(__file__).parents[2]
SWEEP_FILES = sorted(path for path in (ROOT / "configs").glob("*.yaml") if path.stem != "schedules")
T = TypeVar("T")


def document(tracking: Mapping[str, object] | None = None, **changes: object) -> dict[str, object]:
    """A small sweep file: the 5-point line, 12 trials in 3 shards; ``changes`` replace keys.

    No model is logged where ``tracking`` does not say so, for that takes longer than the trials.
    """
    return {
        "name": "small",
        "task": {"dataset": {"kind": "line"}, "model": {"kind": "linear"}},
        "training": {"epochs": 4},
        "parameters": {
            "lr": {"values": [0.01, 0.02, 0.03]},
            "momentum": {"values": [0, 0.9]},
            "weight_decay": {"values": [0, 0.1]},
            "init.weight": {"value": -0.5},
            "init.bias": {"value": 0.5},
        },
        "record": {"points": 4},
        "execution": {"trials_per_shard": 4},
        "tracking": {"model": "none", **(tracking or {})},
    } | changes


@pytest.fixture
def config(tmp_path: Path) -> Callable[..., Path]:
    """Writes a small sweep file, with some of its keys replaced."""

    def write(**changes: object) -> Path:
        path = tmp_path / "sweep.yaml"
        path.write_text(yaml.write(document(**changes)))
        return path

    return write


@pytest.fixture
def make_config() -> Callable[..., SweepConfig]:
    return lambda **changes: parse(document(**changes), "test.yaml")


@pytest.fixture
def make_work(make_config: Callable[..., SweepConfig]) -> Callable[..., Work]:
    return lambda **changes: prepare(make_config(**changes))


@pytest.fixture(scope="session")
def migrated_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MLflow's tables in an empty SQLite database; making them takes seconds, copying them does not."""
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    MlflowTracker(f"sqlite:///{path}").check()
    return path


@pytest.fixture
def store(tmp_path: Path, migrated_database: Path) -> Store:
    home = Store(tmp_path / "store")
    home.check_writable()
    shutil.copy(migrated_database, home.root / "mlflow.db")
    return home


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """An S3 server for the session, which this process and those that it starts find in their environment."""
    with s3.s3_server() as server:
        yield server


@pytest.fixture
def s3_store(s3_server: S3Server) -> Iterator[Store]:
    """A store in a bucket of its own."""
    import boto3

    bucket = f"bucket-{secrets.token_hex(4)}"
    boto3.client("s3").create_bucket(Bucket=bucket)
    s3_server.behave(lambda method, path: "")
    yield Store(f"s3://{bucket}/team/sweeps")
    s3_server.behave(lambda method, path: "")


class Files:
    """Databases in SQLite, as tests.postgres.Cluster has them in PostgreSQL."""

    def __init__(self, folder: Path, migrated: Path) -> None:
        self.folder, self.migrated = folder, migrated
        self.folder.mkdir()

    def new_database(self) -> str:
        return self.copy(f"sqlite:///{self.migrated}")

    def copy(self, uri: str) -> str:
        path = self.folder / f"{len(list(self.folder.glob('*.db')))}.db"
        shutil.copy(uri.removeprefix("sqlite:///"), path)
        return f"sqlite:///{path}"


@pytest.fixture(params=["sqlite", "postgresql"])
def databases(request: pytest.FixtureRequest, tmp_path: Path, migrated_database: Path) -> Files | Cluster:
    """Fresh databases with MLflow's tables, and copies of them."""
    if request.param == "sqlite":
        return Files(tmp_path / "databases", migrated_database)
    cluster: Cluster = request.getfixturevalue("postgres")
    return cluster


@pytest.fixture(scope="session")
def postgres() -> Iterator[Cluster]:
    """A PostgreSQL server for the session."""
    with private_cluster() as cluster:
        yield cluster


@dataclass(frozen=True)
class TrackingServer:
    """A real MLflow server, and the SQLite database behind it."""

    uri: str
    database: Path


@pytest.fixture(scope="session")
def tracking_server(tmp_path_factory: pytest.TempPathFactory, migrated_database: Path) -> Iterator[TrackingServer]:
    """An MLflow server for the session; tests use experiments of their own."""
    folder = tmp_path_factory.mktemp("server")
    database = Path(shutil.copy(migrated_database, folder / "mlflow.db"))
    with mlflow_server(f"sqlite:///{database}", folder / "artifacts") as (uri, _):
        yield TrackingServer(uri, database)


@pytest.fixture
def faulty(tracking_server: TrackingServer) -> Iterator[Proxy]:
    """A proxy in front of the MLflow server, which fails as a test says."""
    with proxy(tracking_server.uri) as server:
        yield server


@pytest.fixture(scope="session")
def ray_executor() -> Iterator[RayExecutor]:
    executor = RayExecutor()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_metrics_report_interval_ms", "1000")  # ten times as often as usual: test_metrics.py waits
        executor.start()
    yield executor
    executor.stop()


@pytest.fixture(params=["inline", pytest.param("ray", marks=pytest.mark.cluster)])
def executor(request: pytest.FixtureRequest) -> Executor:
    return InlineExecutor() if request.param == "inline" else request.getfixturevalue("ray_executor")


@pytest.fixture
def stored(store: Store) -> Callable[[Work], SweepFiles]:
    """Computes a sweep into the store, without MLflow."""

    return lambda work: computed_into(store, "abcd1234", work)


def computed_into(
    store: Store,
    sweep_id: str,
    work: Work,
    created: str = "2026-01-01T00:00:00+00:00",
    **facts: object,
) -> SweepFiles:
    """A sweep that is computed and not logged; ``facts`` are kept in its manifest."""
    manifest = {"sweep_id": sweep_id, "name": work.config.name, "created": created}
    manifest |= {**work.plan.summary(), "data": {"digest": work.task.dataset.digest}, **facts}
    files = store.create(sweep_id, work.config.to_yaml(), manifest)
    for shard in work.plan.shards():
        result = run_shard(work, shard)
        assert isinstance(result, ShardResult), result
        files.write_shard(result)
    return files


class Cli:
    """Runs ``sweeps`` as a user does, in a process of its own.

    Args:
        folder: where.
        forked: from a process that has imported all already; else as the shell starts it.
    """

    def __init__(self, folder: Path, forked: bool = True) -> None:
        self.folder, self.forked = folder, forked

    def __call__(self, *arguments: object, code: int = 0, **environment: str) -> subprocess.CompletedProcess[str]:
        done = self.start(*arguments, **environment)
        out, err = done.communicate(timeout=300)
        assert done.returncode == code, f"exit code {done.returncode}\n{out}\n{err}"
        assert "Traceback" not in err
        return subprocess.CompletedProcess(done.args, done.returncode, out, err)

    def start(
        self, *arguments: object, before: Callable[[], None] | None = None, **environment: str
    ) -> "subprocess.Popen[str] | Forked":
        words = list(map(str, arguments))
        outside = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH_")}
        every = {**outside, "SWEEPS_STORE": str(self.folder / "store"), **environment}
        if self.forked and before is None:
            return Forked(words, self.folder, every)
        return subprocess.Popen(
            [Path(sys.executable).parent / "sweeps", *words],
            cwd=self.folder,
            env=every,
            preexec_fn=before,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


class Browser:
    """A real Chromium. It lives in a thread of its own, for Playwright leaves its thread with a running event loop."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1)
        self._thread.submit(self._start).result(timeout=120)

    def _start(self) -> None:
        from playwright.sync_api import sync_playwright

        path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
        assert path, "no Chromium on the PATH: 'make chromium' installs it"
        self._playwright = sync_playwright().start()
        flags = "--headless --no-sandbox --disable-gpu --disable-background-networking --disable-component-update"
        arguments = [*flags.split(), "--disable-sync", "--no-first-run"]
        self._chromium = self._playwright.chromium.launch(executable_path=path, args=arguments)

    def stop(self) -> None:
        self._thread.submit(self._chromium.close).result(timeout=60)
        self._thread.submit(self._playwright.stop).result(timeout=60)
        self._thread.shutdown()

    def visit(
        self, place: Path | str, look: Callable[[Any], T], dark: bool = False, width: int = 1280, allowed: str = ""
    ) -> T:
        """Open a file or an address, look at the page, and hold that nothing went wrong and nothing else was asked for.

        A page at an address may ask for more from the same origin; ``allowed`` is a pattern of console messages that
        are expected.
        """
        address = place if isinstance(place, str) else place.as_uri()
        home = f"{urlsplit(address).scheme}://{urlsplit(address).netloc}/" if isinstance(place, str) else address

        def visit() -> tuple[T, list[str]]:
            scheme = "dark" if dark else "light"
            context = self._chromium.new_context(color_scheme=scheme, viewport={"width": width, "height": 900})
            context.set_default_timeout(120_000)  # a loaded machine is slow, not wrong
            page, problems = context.new_page(), []
            page.on("console", lambda message: problems.append(f"console: {message.text}"))
            page.on("pageerror", lambda error: problems.append(f"error: {error}"))
            page.on("request", lambda request: asked.append(request.url))
            asked: list[str] = []
            page.goto(address)
            found = look(page)
            context.close()
            outside = [url for url in asked if not url.startswith((home, "data:", "blob:"))]
            return found, [*problems, *(f"request: {url}" for url in outside)]

        found, problems = self._thread.submit(visit).result(timeout=400)
        assert [problem for problem in problems if not (allowed and re.search(allowed, problem))] == []
        return found

    def see(self, look: Callable[[Any], T]) -> T:
        """Let somebody look around in a new page, of whatever server."""

        def see() -> T:
            context = self._chromium.new_context(viewport={"width": 1600, "height": 1200})
            context.set_default_timeout(90_000)
            try:
                return look(context.new_page())
            finally:
                context.close()

        return self._thread.submit(see).result(timeout=400)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    chromium = Browser()
    yield chromium
    chromium.stop()


@pytest.fixture
def cli(tmp_path: Path, store: Store) -> Cli:
    """The command line, in a folder with a store whose MLflow database is already migrated."""
    assert store.root == tmp_path / "store"
    return Cli(tmp_path)
