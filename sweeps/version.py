"""The version of the package, and whether another package of the same name is in its way."""

import os
import sys
from contextlib import suppress

__version__ = "0.1.0"

CONFLICT_REMEDY = (
    "use another environment, or run: pip uninstall sweeps; pip install --force-reinstall --no-deps sgd-sweeps"
)


def conflict() -> str | None:
    """Return what is wrong if the package named sweeps on PyPI (of Weights & Biases) is installed; else None."""
    if not any(_has_metadata(folder) for folder in sys.path):
        return None  # without the import, which takes a tenth of the time of a short command
    from importlib.metadata import PackageNotFoundError, version

    try:
        other = version("sweeps")
    except PackageNotFoundError:
        return None
    return f"the package sweeps {other} (of Weights & Biases) is installed, whose files replace some of sgd-sweeps"


def _has_metadata(folder: str) -> bool:
    """Return whether a folder of the import path can have the metadata of a package named sweeps."""
    with suppress(OSError):
        return any(name.lower().startswith(("sweeps-", "sweeps.")) for name in os.listdir(folder or "."))
    return False
