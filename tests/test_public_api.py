"""The public API: everything in ``__all__`` is there and documented, its examples run, and sweeps survive Ctrl-C."""

from __future__ import annotations

import doctest
import inspect
import pydoc
import signal
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path

import pytest

import sgdcore
import sweeps
from sweeps.store.store import Store
from tests.support.documents import document

MANY = {"lr": {"min": 0.001, "max": 0.03, "count": 30}, "momentum": {"values": [0, 0.9]}}
NOTEBOOK = """
import sweeps
config = sweeps.load_config({document!r})
try:
    sweeps.run(config, "store", executor="inline", sweep_id="aa")
except KeyboardInterrupt as interrupt:
    print("KeyboardInterrupt:", interrupt)
"""


@pytest.mark.parametrize("package", [sgdcore, sweeps], ids=lambda package: package.__name__)
def test_all_that_is_public_is_there_and_documented(package: object) -> None:
    for name in package.__all__:  # type: ignore[attr-defined]
        part = getattr(package, name)
        if name != "__version__":
            assert inspect.getdoc(part), name
    assert set(package.__all__) <= set(dir(package))  # type: ignore[attr-defined]
    assert "DESCRIPTION" in pydoc.render_doc(package, renderer=pydoc.plaintext)


@pytest.mark.slow
@pytest.mark.parametrize("module", ["sgdcore", "sweeps.api"])
def test_examples_run(module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    failed, tried = doctest.testmod(import_module(module), optionflags=doctest.ELLIPSIS)
    assert (failed, tried > 4) == (0, True)


def test_importing_the_package_imports_nothing_heavy() -> None:
    heavy = {"mlflow", "numpy", "pandas", "plotly", "ray", "torch"}
    script = f"import sys, sweeps; print({heavy} & set(sys.modules))"
    assert (
        subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout == "set()\n"
    )


def test_a_sweep_is_planned_and_wrong_ones_refused(tmp_path: Path) -> None:
    config = sweeps.load_config(document())
    assert sweeps.plan(config).trials == 12
    with pytest.raises(sweeps.ConfigError, match="unknown key"):
        sweeps.load_config({"lr": 1})
    with pytest.raises(sweeps.ConfigError, match="cannot be read"):
        sweeps.load_config(tmp_path / "nothing.yaml")
    with pytest.raises(sweeps.InputError, match="no such sweep"):
        sweeps.open_results("abcd", tmp_path)


@pytest.mark.slow
def test_ctrl_c_keeps_what_was_done_and_resume_finishes_it(tmp_path: Path, store: Store) -> None:
    script = NOTEBOOK.format(document=document(parameters=MANY, execution={"trials_per_shard": 1}))
    process = subprocess.Popen(
        [sys.executable, "-c", script], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    until = time.monotonic() + 120
    while not (sweeps_there := store.sweeps()) or not sweeps_there[0].shards.done():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert "KeyboardInterrupt: interrupted; what was done is kept: sweeps.resume('aa', 'store')" in out, (out, err)
    [files] = store.sweeps()
    assert files.holder() is None
    assert 0 < len(files.shards.done()) < 60, "too fast for this test"
    results = sweeps.resume("aa", store.root, executor="inline")
    assert (results.stored, len(results.trials)) == (60, 60)


@pytest.mark.slow
def test_a_lost_cluster_is_an_error_with_what_is_kept(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A command that ends as one whose cluster was lost; tests/chaos loses real ones."""
    (tmp_path / "lost.py").write_text(
        "import sys\nprint('computed 3 of 12')\n"
        "print('error: the sweep is interrupted: its node or its cluster is lost; continue with: x', file=sys.stderr)\n"
        "sys.exit(3)\n"
    )
    real = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda command, **o: real([sys.executable, tmp_path / "lost.py"], **o))
    with pytest.raises(sweeps.ClusterLost, match="cluster is lost; continue with"):
        sweeps.run(sweeps.load_config(document()), store.root)
