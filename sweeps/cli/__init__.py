"""The command line: parse, call, print. Heavy imports happen inside the command that needs them."""

import atexit
import gc
import os
import sys
import threading
from contextlib import suppress
from typing import NoReturn

from sweeps.cli import interrupts, streams
from sweeps.cli.app import app
from sweeps.cli.commands import admin, compare, dashboard, jobs, manage, run, schedule, show
from sweeps.errors import InputError, SweepsError
from sweeps.version import CONFLICT_REMEDY, conflict

__all__ = ["admin", "app", "compare", "dashboard", "jobs", "main", "manage", "run", "schedule", "show"]


_NEW_OBJECTS = 200_000  # from one garbage collection to the next; with Python's 700, imports take a quarter longer


def main() -> None:
    """Run a command. SIGTERM and SIGHUP interrupt like Ctrl-C: results are kept and the next command is printed."""
    gc.set_threshold(_NEW_OBJECTS, 30, 30)
    try:
        _run()
    except SystemExit as end:
        if isinstance(end.code, int):
            _exit(end.code)
        raise


def _run() -> None:
    streams.secure()
    interrupts.install()
    if os.path.expanduser("~") == "~":
        os.environ["HOME"] = "/"  # as in containers; MLflow cannot be imported without a home
    if (problem := conflict()) is not None and sys.argv[1:2] != ["doctor"]:
        from sweeps.cli.terminal import complain

        complain(f"{problem}; {CONFLICT_REMEDY}")
        sys.exit(InputError.exit_code)
    try:
        app(prog_name="sweeps")
    finally:
        try:
            streams.check_written()
        except SweepsError as error:
            from sweeps.cli.terminal import complain

            complain(str(error))
            sys.exit(error.exit_code)


def _exit(code: int) -> NoReturn:
    """End the process as Python does, but leave its memory to the system: to free every object takes a second."""
    with suppress(KeyboardInterrupt):
        threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
