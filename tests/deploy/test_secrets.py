"""Passwords in addresses that do not work: in no line that is printed, and in no file."""

from pathlib import Path

import pytest
import yaml

from sweeps.errors import TrackingError
from sweeps.text.redact import redact_uri
from sweeps.tracking.mlflow.tracker import MlflowTracker
from tests.support.command_line import Cli
from tests.support.documents import document

SECRET = "hunter2-p%40ss"
FAILING = [
    f"postgresql://sweeps:{SECRET}@127.0.0.1:1/mlflow",
    f"postgresql+psycopg://sweeps:{SECRET}@127.0.0.1:1/mlflow?connect_timeout=1",
    f"postgresql://127.0.0.1:1/mlflow?user=sweeps&password={SECRET}",
    f"mysql://sweeps:{SECRET}@127.0.0.1:1/mlflow",
    f"http://sweeps:{SECRET}@127.0.0.1:1",
    f"https://:{SECRET}@127.0.0.1:1/mlflow",
    f"unheard-of://sweeps:{SECRET}@somewhere",
]


@pytest.mark.parametrize("uri", FAILING)
def test_an_address_that_fails_is_told_without_its_password(uri: str) -> None:
    tracker = MlflowTracker(uri)
    assert "hunter2" not in tracker.uri
    with pytest.raises(TrackingError) as told:
        tracker.check()
    assert "hunter2" not in str(told.value)
    assert "\n" not in str(told.value)


def test_nothing_of_a_run_that_fails_has_the_password(cli: Cli, tmp_path: Path) -> None:
    sweep = tmp_path / "sweep.yaml"
    sweep.write_text(yaml.safe_dump(document()))
    done = cli("run", sweep, "--executor", "inline", "--tracking-uri", FAILING[0], code=2, PGPASSWORD="hunter2")
    assert done.stderr.count("\n") == 1
    assert "postgresql://sweeps:***@127.0.0.1:1/mlflow" in done.stderr
    files = [path for path in (cli.folder / "store").rglob("*") if path.is_file()]
    assert "hunter2" not in done.stdout + done.stderr
    assert not any(b"hunter2" in path.read_bytes() for path in files)


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("https://host/path?api_key=hunter2&page=1", "https://host/path?api_key=***&page=1"),
        ("https://host/?Access_Token=hunter2", "https://host/?Access_Token=***"),
        ("s3://key:hunter2@host/bucket", "s3://key:***@host/bucket"),
    ],
)
def test_what_is_hidden(uri: str, shown: str) -> None:
    assert redact_uri(uri) == shown
