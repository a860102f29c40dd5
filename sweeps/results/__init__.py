"""Aggregates, rankings and comparisons of stored trials, as numbers and pandas tables."""
