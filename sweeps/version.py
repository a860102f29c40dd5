"""The version of the package, and whether another package of the same name is in its way."""

from importlib.metadata import PackageNotFoundError, version

__version__ = "0.1.0"

CONFLICT_REMEDY = (
    "use another environment, or run: pip uninstall sweeps; pip install --force-reinstall --no-deps sgd-sweeps"
)


def conflict() -> str | None:
    """Return what is wrong if the package named sweeps on PyPI (of Weights & Biases) is installed; else None."""
    try:
        other = version("sweeps")
    except PackageNotFoundError:
        return None
    return f"the package sweeps {other} (of Weights & Biases) is installed, whose files replace some of sgd-sweeps"
