"""Fixtures of all tests, and which tests run in one process. Tests on CUDA run only where there is a GPU."""

import os
import secrets
import shutil
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

# Before torch is imported: the same sums on all processors. By default MKL takes those of Intel's newer ones with FMA.
os.environ.setdefault("MKL_CBWR", "COMPATIBLE")

import pytest
from hypothesis import settings
from xdist.remote import Producer
from xdist.scheduler import LoadFileScheduling

from sgdcore.devices import gpus
from sweeps.config import strict_yaml
from sweeps.config.loader import parse
from sweeps.config.schema import SweepConfig
from sweeps.execution.executor import Executor
from sweeps.execution.inline import InlineExecutor
from sweeps.execution.ray import RayExecutor, loopback_environment
from sweeps.planning.prepared import PreparedSweep, prepare
from sweeps.report import run_page
from sweeps.store.store import Store, SweepFiles
from sweeps.tracking.mlflow.server.ui import mlflow_server
from sweeps.tracking.mlflow.tracker import MlflowTracker
from tests.support import hypothesis_profiles, s3
from tests.support.browser import Browser
from tests.support.command_line import Cli
from tests.support.documents import document
from tests.support.postgres import Cluster, private_cluster
from tests.support.proxy import Proxy, proxy
from tests.support.s3 import S3Server
from tests.support.stores import computed_into
from tests.support.tracking import Files, TrackingServer

settings.load_profile(hypothesis_profiles.PROFILE)


# The files whose tests share servers or clusters, which start once: they run in one process, as does every other file.
SHARING = {
    "tests/deploy/test_doors.py": "service",
    "tests/deploy/test_nights.py": "service",
    "tests/sweeps/execution/test_executors.py": "ray",
    "tests/sweeps/execution/test_heartbeat.py": "ray",
    "tests/sweeps/execution/test_ray_faults.py": "ray",
    "tests/sweeps/pipeline/test_reuse.py": "ray",
    "tests/sweeps/store/backends/test_s3.py": "ray",
    "tests/sweeps/tracking/mlflow/test_run_times.py": "ray",
    "tests/sweeps/service/monitoring/test_prometheus.py": "ray",
}
STOPS_RAY = "tests/sweeps/execution/test_ray_faults.py"
# The groups that take longest start first, so that the processes end at about the same time.
LONGEST = (
    "ray",
    "tests/sweeps/service/jobs/test_ray_jobs.py",
    "service",
    "tests/sgdcore/kernels/test_kernels.py",
    "tests/sweeps/cli/test_cli.py",
    "tests/sgdcore/kernels/test_linear_triton.py",
    "tests/dashboards/test_pages.py",
    "tests/sgdcore/kernels/test_linear_numba.py",
    "tests/sweeps/pipeline/test_best_model.py",
    "tests/sweeps/tracking/mlflow/test_bulk_writer.py",
    "tests/sweeps/verification/test_audit.py",
    "tests/chaos/test_chaos.py",
    "tests/sweeps/service/schedule/test_scheduler.py",
    "tests/sweeps/tracking/mlflow/test_reconcile.py",
    "tests/sweeps/search/test_stages.py",
    "tests/sweeps/verification/test_tolerance.py",
    "tests/sweeps/cli/test_streams.py",
    "tests/sweeps/tracking/mlflow/test_faults.py",
)
SLOW = {"browser", "cli", "postgres", "ray_executor", "s3_server", "service_stack", "tracking_server"}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--chaos-rounds", type=int, help="how often each fault of tests/chaos is tried")
    parser.addoption("--chaos-seed", type=int, default=0, help="of its first round")
    parser.addoption("--fail-on-skip", action="store_true", help="report a skipped test as failed, as CI does")


def pytest_configure() -> None:
    """Unset the variables that point to the user's own servers and store, and let Ray's workers import tests' tasks.

    Ray reads its variables when it is imported, which any test may do first: set them for a local Ray before.
    """
    for name in [name for name in os.environ if name.startswith(("MLFLOW_TRACKING_", "SWEEPS_"))]:
        del os.environ[name]
    loopback_environment()
    os.environ["PYTHONPATH"] = str(Path(__file__).parents[1])


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadFileScheduling:
    class InGroups(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return _group(nodeid)

    return InGroups(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if _fixtures(item) & SLOW:
            item.add_marker(pytest.mark.slow)
    slow = Counter(_group(item.nodeid) for item in items if item.get_closest_marker("slow"))

    def late(item: pytest.Item) -> tuple[int, int, str, bool]:
        """Return the place in the order: the longest groups, files with many slow tests, and the rest.

        Of the files that share a local Ray, the one that stops it comes last.
        """
        group = _group(item.nodeid)
        place = LONGEST.index(group) if group in LONGEST else len(LONGEST)
        return place, -slow[group], group, item.nodeid.startswith(STOPS_RAY)

    items.sort(key=late)
    hardware = [] if config.option.collectonly else ["no_cuda" if gpus() else "cuda"]  # a list is of all machines
    elsewhere = [*hardware, *(() if config.getoption("--chaos-rounds") else ("chaos_only",))]
    config.hook.pytest_deselected(items=[item for item in items if any(map(item.get_closest_marker, elsewhere))])
    items[:] = [item for item in items if not any(map(item.get_closest_marker, elsewhere))]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.skipped and item.config.getoption("--fail-on-skip"):
        report.outcome, report.longrepr = "failed", f"skipped: {report.longrepr}"
    return report


def _group(nodeid: str) -> str:
    """Return the group of tests that run in one process."""
    file = nodeid.partition("::")[0]
    return SHARING.get(file, file)


def _fixtures(item: pytest.Item) -> set[str]:
    """Return the fixtures that a test uses, those of its parameters included."""
    used = set(getattr(item, "fixturenames", ()))
    parameters = getattr(getattr(item, "callspec", None), "params", {})
    by_parameter = {"executor": {"ray": "ray_executor"}, "databases": {"postgresql": "postgres"}}
    chosen = (by_parameter[name].get(value) for name, value in parameters.items() if name in by_parameter)
    return used | {fixture for fixture in chosen if fixture}


@pytest.fixture
def config(tmp_path: Path) -> Callable[..., Path]:
    """Writes a small sweep file, with some of its keys replaced."""

    def write(**changes: object) -> Path:
        path = tmp_path / "sweep.yaml"
        path.write_text(strict_yaml.write(document(**changes)))
        return path

    return write


@pytest.fixture
def make_config() -> Callable[..., SweepConfig]:
    return lambda **changes: parse(document(**changes), "test.yaml")


@pytest.fixture
def make_prepared(make_config: Callable[..., SweepConfig]) -> Callable[..., PreparedSweep]:
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
def local_ray(s3_server: S3Server) -> Iterator[RayExecutor]:
    """A local Ray for the session, not started yet; a process can have one Ray only, so a test may stop it.

    Its workers find the S3 server in their environment, which is that of the process that starts Ray.
    """
    executor = RayExecutor()
    yield executor
    executor.stop()


@pytest.fixture
def ray_executor(local_ray: RayExecutor) -> RayExecutor:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_metrics_report_interval_ms", "1000")  # ten times as often as usual: test_prometheus.py waits
        local_ray.start()
    return local_ray


@pytest.fixture(params=["inline", pytest.param("ray", marks=pytest.mark.slow)])
def executor(request: pytest.FixtureRequest) -> Executor:
    return InlineExecutor() if request.param == "inline" else request.getfixturevalue("ray_executor")


@pytest.fixture
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Publish text instead of pictures, which take longer to draw than a small sweep to train and log."""
    monkeypatch.setattr(run_page, "stills", lambda results: {"stability_map.png": b"", "loss_curves.png": b""})


@pytest.fixture
def stored(store: Store) -> Callable[[PreparedSweep], SweepFiles]:
    """Computes a sweep into the store, without MLflow."""

    return lambda prepared: computed_into(store, "abcd1234", prepared)


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
