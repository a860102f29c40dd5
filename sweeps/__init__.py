"""sweeps: hyperparameter sweeps of SGD, from a YAML file to MLflow runs and a report."""

from sweeps.version import __version__

__all__ = ["__version__"]
