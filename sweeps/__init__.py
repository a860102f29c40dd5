"""sweeps: hyperparameter sweeps of SGD, from a YAML file to MLflow runs and a report."""

__version__ = "0.1.0"
