"""The log of a sweep's life: every event once, on standard error only where it is asked for, and never a secret."""

import json
import logging
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest

from sweeps.config import strict_yaml
from sweeps.events import log_event
from sweeps.service.monitoring import event_log
from sweeps.store.store import Store
from tests.support.command_line import Cli
from tests.support.documents import document

SECRET = "s3cr3t-p@ss"


@pytest.fixture(autouse=True)
def as_it_was() -> Iterator[None]:
    """Nothing is logged afterwards."""
    logger = logging.getLogger("sweeps")
    handlers, level = list(logger.handlers), logger.level
    yield
    logger.handlers[:] = handlers
    logger.setLevel(level)


@pytest.mark.slow
def test_a_sweep_says_what_happens_to_it(cli: Cli, store: Store, tmp_path: Path) -> None:
    config = tmp_path / "sweep.yaml"
    config.write_text(strict_yaml.write(document()))
    done = cli("--log-format", "json", "run", config, "--executor", "inline")
    events = [json.loads(line) for line in done.stderr.splitlines()]
    names = [each["event"] for each in events]
    assert names == ["sweep planned", "sweep started", *["shard stored"] * 3, "sweep finished"]
    [files] = store.sweeps()
    for each in events:
        assert each["sweep_id"] == files.sweep_id
        assert datetime.fromisoformat(each["time"]).tzinfo is not None
        assert each["level"] == "info"
    assert (events[0]["trials"], events[0]["shards"]) == (12, 3)
    assert {each["shard"] for each in events[2:5]} == {0, 1, 2}
    assert (events[-1]["logged"], events[-1]["failed"], events[-1]["unlogged"]) == (12, 0, 0)
    (files.shards.folder / "00001.parquet").unlink()
    service = {"SWEEPS_LOG_FORMAT": "text", "SWEEPS_LOG_LEVEL": "info"}
    lines = cli("resume", files.sweep_id, "--executor", "inline", **service).stderr.splitlines()
    assert [line.split(" ", 1)[1].split(" sweep_id")[0] for line in lines] == [
        "INFO sweep resumed",
        "INFO sweep started",
        "INFO shard stored",
        "INFO sweep finished",
    ]
    (files.shards.folder / "00001.parquet").unlink()
    assert cli("resume", files.sweep_id, "--executor", "inline").stderr == ""


@pytest.mark.parametrize("form", ["text", "json"])
def test_secrets_are_not_logged(
    form: event_log.LogFormat, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", SECRET)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "/run/secrets/token")
    event_log.set_up(form, "info")
    uri = "postgresql://me:hidden@host/db?password=hidden&x=1"
    log_event("tracking failed", "abcd", reason=f"{uri} refused {SECRET}", see="/run/secrets/token", logged=3)
    logging.getLogger("sweeps.room").error("at %s with Authorization: Bearer %s", uri, "hidden")
    try:
        raise ValueError(f"{uri} {SECRET}")
    except ValueError:
        logging.getLogger("sweeps").exception("it went wrong")
    text = capsys.readouterr().err
    assert "hidden" not in text
    assert SECRET not in text
    assert text.count("postgresql://me:***@host/db") == 3
    assert "/run/secrets/token" in text
    assert "ValueError" in text
    if form == "json":
        first, second, third = map(json.loads, text.splitlines())
        assert (first["event"], first["logged"], second["level"]) == ("tracking failed", 3, "error")
        assert third["traceback"].startswith("Traceback")


def test_below_the_level_nothing_is_logged_and_one_set_up_replaces_the_other(
    capsys: pytest.CaptureFixture[str],
) -> None:
    log_event("unheard", "abcd")
    event_log.set_up("json", "info")
    event_log.set_up("text", "warning")
    log_event("unheard", "abcd")
    log_event("heard", "abcd", level=logging.WARNING, why="a b")
    [line] = capsys.readouterr().err.splitlines()
    assert line.endswith(' WARNING heard sweep_id=abcd why="a b"')


@pytest.mark.slow
def test_an_unknown_format_is_one_line(cli: Cli) -> None:
    assert "xml" in cli("--log-format", "xml", "list", code=2).stderr
