"""Tracking: shard results to MLflow; the only room that imports mlflow."""
