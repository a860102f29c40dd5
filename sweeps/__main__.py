"""Run the command line with ``python -m sweeps``."""

from sweeps.cli import main

main()
