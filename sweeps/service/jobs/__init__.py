"""Sweeps as jobs on a Ray cluster."""
