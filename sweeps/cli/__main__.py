"""``python -m sweeps.cli``: as ``sweeps``."""

from sweeps.cli import main

main()
