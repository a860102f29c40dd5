"""``sweeps`` in processes forked from one with all imports done: like a user's process, but seconds faster."""

from __future__ import annotations

import atexit
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from pathlib import Path
from threading import Thread
from typing import TextIO

PRELOADED = (
    "alembic.command",
    "mlflow.data.numpy_dataset",
    "mlflow.pyfunc",
    "mlflow.store.tracking.sqlalchemy_store",
    "mlflow.tracking",
    "sgdcore.kernels.linear_numba.kernel",
    "sgdcore.kernels.reference",
    "sweeps.cli",
    "sweeps.execution.inline",
    "sweeps.report.files",
    "sweeps.pipeline.run",
    "sweeps.tracking.mlflow.tracker",
    "sweeps.verification.audit",
    "tests.support.forked",
    "tests.support.warm_commands",
)


class Forked:
    """A running command, with the attributes and methods of a subprocess.Popen whose output is text in pipes.

    Args:
        arguments: arguments of ``sweeps``.
        folder: the working directory.
        environment: the whole environment.
        script: Python code to run instead of ``sweeps``, as ``python -c`` does.
    """

    def __init__(
        self, arguments: Sequence[str], folder: Path, environment: Mapping[str, str], script: str | None = None
    ) -> None:
        self.args = ["-c" if script else str(Path(sys.executable).parent / "sweeps"), *arguments]
        context = _server()
        (out, their_out), (err, their_err) = context.Pipe(duplex=False), context.Pipe(duplex=False)
        arguments_of_run = (self.args, script, str(folder), dict(environment), their_out, their_err)
        self._process = context.Process(target=_run, args=arguments_of_run)
        self._process.start()
        for end in (their_out, their_err):
            end.close()
        self.stdout, self.stderr = (os.fdopen(os.dup(end.fileno())) for end in (out, err))
        assert self._process.pid is not None
        self.pid: int = self._process.pid

    @property
    def returncode(self) -> int | None:
        """The exit code, once poll() or wait() has fetched it, as in Popen."""
        return self._process.exitcode

    def poll(self) -> int | None:
        """Return the exit code, or None while it runs."""
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait until it exits.

        Raises:
            subprocess.TimeoutExpired: it is still running.
        """
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0)
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send it a signal unless it has exited."""
        if self.returncode is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Wait until it exits, and return its whole output.

        Raises:
            subprocess.TimeoutExpired: it is still running.
        """
        texts = ["", ""]

        def read(place: int, pipe: TextIO) -> None:
            with pipe:
                texts[place] = pipe.read()

        readers = [Thread(target=read, args=pipe, daemon=True) for pipe in enumerate((self.stdout, self.stderr))]
        for reader in readers:
            reader.start()
        self.wait(timeout)
        for reader in readers:
            reader.join()
        return texts[0], texts[1]


@cache
def _server() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(PRELOADED))
    return context


def _run(
    arguments: list[str],
    script: str | None,
    folder: str,
    environment: dict[str, str],
    out: Connection,
    err: Connection,
) -> None:
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    for end, place in ((out, 1), (err, 2)):
        os.dup2(end.fileno(), place)
        end.close()
    sys.argv = arguments
    from sweeps.cli import main

    try:
        if script is None:
            main()
        else:
            exec(compile(script, "<string>", "exec"), {"__name__": "__main__"})
    finally:
        atexit._run_exitfuncs()
