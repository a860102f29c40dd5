"""The command line: parse, call, print. Heavy imports happen inside the command that needs them."""

import signal
import sys

from sweeps.cli import comparing, jobs, making, operating, scheduling, serving, viewing
from sweeps.cli.app import app
from sweeps.cli.supervision import supervise

__all__ = ["app", "comparing", "jobs", "main", "making", "operating", "scheduling", "serving", "viewing"]


def main() -> None:
    """Run a command; a polite kill is an interrupt, so that what was done is kept and named."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    supervise(sys.argv[1:])
    app()
