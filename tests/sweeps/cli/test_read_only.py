"""A store on a read-only disk: reading needs no lock and writes nothing."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sweeps.store.store import Store, SweepFiles
from tests.support.command_line import Cli
from tests.support.unprivileged import unprivileged

pytestmark = pytest.mark.slow


@pytest.fixture
def files(cli: Cli, config: Callable[..., Path], store: Store) -> Iterator[SweepFiles]:
    """A finished sweep whose store, and the folder that it is in, cannot be written."""
    cli("run", config(), "--executor", "inline")
    [files] = store.sweeps()
    paths = [cli.folder, store.root, *store.root.rglob("*")]
    for path in paths:
        path.chmod(0o555 if path.is_dir() else 0o444)
    yield files
    for path in paths:
        path.chmod(0o755 if path.is_dir() else 0o644)


def snapshot(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(path): (path.stat().st_mtime_ns, path.stat().st_size) for path in folder.rglob("*")}


def read_only(folder: Path, *arguments: str, code: int = 0) -> str:
    process = unprivileged("from sweeps.cli import main; main()", folder, *arguments, SWEEPS_STORE="store")
    out, errors = process.communicate(timeout=300)
    assert process.returncode == code, errors
    return out or errors


def test_a_read_only_store_is_read(cli: Cli, files: SweepFiles) -> None:
    before = snapshot(cli.folder)
    assert "3/3" in read_only(cli.folder, "list", "--json")
    assert "12 trials" in read_only(cli.folder, "show", files.sweep_id)
    assert read_only(cli.folder, "report", files.sweep_id, "--format", "html").startswith("<!")
    verified = read_only(cli.folder, "verify", files.sweep_id, "--sample", "2")
    assert "tracking: 12 trials match the store" in verified
    assert "sample:   2 trials trained" in verified
    assert "report --format html" in read_only(cli.folder, "report", files.sweep_id, code=2)
    assert snapshot(cli.folder) == before
