"""What Ray's workers import: installed packages, and the sweep file's module from the folder where it lies."""

from collections.abc import Callable
from pathlib import Path

from tests.support.command_line import Cli

PACKAGES = ("torch", "numpy", "pyarrow", "random")
MODULE = (
    "from torch import nn\n\n\ndef make():\n    return nn.Sequential(nn.Linear(2, 2), nn.Tanh(), nn.Linear(2, 1))\n"
)


def test_a_file_named_like_a_package_does_not_replace_it(config: Callable[..., Path], cli: Cli, tmp_path: Path) -> None:
    for name in PACKAGES:
        (tmp_path / f"{name}.py").write_text(f"raise ImportError('{name}.py of the working directory')\n")
    (tmp_path / "mine.py").write_text(MODULE)
    task = {
        "dataset": {"kind": "linear", "n": 6, "d": 2, "seed": 1},
        "model": {"kind": "module", "module": "mine:make"},
    }
    path = config(task=task, parameters={"lr": {"values": [0.01, 0.02]}})
    done = Cli(tmp_path, forked=False)("run", path, "--executor", "ray")
    assert f"module: mine:make is imported and called, from {tmp_path}, here and by every worker" in done.stdout
