"""The command line: parse, call, print. Heavy imports happen inside the command that needs them."""

import os
import sys

from sweeps.cli import interrupts, streams
from sweeps.cli.app import app
from sweeps.cli.commands import admin, compare, dashboard, jobs, manage, run, schedule, show
from sweeps.errors import InputError, SweepsError
from sweeps.version import CONFLICT_REMEDY, conflict

__all__ = ["admin", "app", "compare", "dashboard", "jobs", "main", "manage", "run", "schedule", "show"]


def main() -> None:
    """Run a command. SIGTERM and SIGHUP interrupt like Ctrl-C: results are kept and the next command is printed."""
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
