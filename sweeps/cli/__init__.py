"""The command line: parse, call, print. Heavy imports happen inside the command that needs them."""

import signal

from sweeps.cli.app import app
from sweeps.cli.commands import admin, compare, dashboard, jobs, run, schedule, show

__all__ = ["admin", "app", "compare", "dashboard", "jobs", "main", "run", "schedule", "show"]


def main() -> None:
    """Run a command. SIGTERM interrupts like Ctrl-C, so that results are kept and the next command is printed."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    app()
