"""Tracking in MLflow; the only package that imports MLflow."""
