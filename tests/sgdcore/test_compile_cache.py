"""Where compiled kernels are kept when neither the installation nor the home can be written."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from sgdcore import compile_cache

SCRIPT = """
import os, warnings
import numba.core.caching as caching

ensure = caching._CacheLocator.ensure_cache_path

def only_there(locator):
    if not locator.get_cache_path().startswith(os.environ["WRITABLE"]):
        raise OSError("read-only file system")
    ensure(locator)

caching._CacheLocator.ensure_cache_path = only_there
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    from sgdcore import Hyperparams, Task, train
    from sgdcore.tasks import line
    loss = train(Task(line()), Hyperparams(lr=0.01), epochs=1, start=[0.0, 0.0], kernel="numba").loss[0, -1]
print(round(loss, 3), *(one.message for one in said), sep="|")
"""


def trained(writable: Path, temporary: Path) -> list[str]:
    environment = {**os.environ, "WRITABLE": str(writable), "TMPDIR": str(temporary)}
    environment.pop("NUMBA_CACHE_DIR", None)
    done = subprocess.run([sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().split("|")


def test_a_folder_for_temporary_files_serves_before_none(tmp_path: Path) -> None:
    loss, told = trained(tmp_path, tmp_path)
    folder = tmp_path / f"sgdcore-numba-{os.getuid()}"
    assert told == f"compiled kernels are kept in {folder}; set NUMBA_CACHE_DIR to another folder"
    assert any(folder.rglob("*.nbi"))
    assert folder.stat().st_mode & 0o777 == 0o700
    same, told = trained(Path("/nowhere"), tmp_path)
    assert told == "no folder can keep compiled kernels: each process compiles them"
    assert same == loss


@pytest.mark.parametrize("mode", [0o777, 0o720])
def test_a_folder_that_others_can_write_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: int) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    folder = tmp_path / f"sgdcore-numba-{os.getuid()}"
    assert compile_cache._temporary() == folder
    folder.chmod(mode)
    with pytest.raises(PermissionError, match="belongs to somebody else"):
        compile_cache._temporary()


TRAIN = """
import logging, sys
logging.basicConfig(level=logging.INFO, format="%(name)s %(message)s", stream=sys.stdout)
logging.getLogger("numba").setLevel(logging.WARNING)
from sgdcore import Dataset, Hyperparams, LinearModel, Task, train
task = Task(Dataset([[1.0, 2.0, 0.5], [2.0, 1.0, 0.0]], [1.0, 2.0]), LinearModel())
train(task, Hyperparams(lr=0.1), epochs=1, batch_size=2)
"""


def test_a_compilation_is_logged_and_the_next_run_compiles_nothing(tmp_path):
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}
    first, second = (
        subprocess.run([sys.executable, "-c", TRAIN], capture_output=True, text=True, check=True, env=environment)
        for _ in range(2)
    )
    assert first.stdout.splitlines() == [
        "sgdcore compiling the kernel for linear models; later runs find it on disk",
        "sgdcore compiling the kernel for linear models with 4 parameters, float32; later runs find it on disk",
    ]
    assert second.stdout == ""
