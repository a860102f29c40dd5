"""The command line, run as a user runs it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tests.support.forked import Forked


class Cli:
    """A runner of ``sweeps`` commands, each in a separate process.

    Args:
        folder: the working directory.
        forked: fork from a process that has already imported everything; else start as the shell does.
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
    ) -> subprocess.Popen[str] | Forked:
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
