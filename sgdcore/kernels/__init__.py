"""Kernels: interchangeable implementations that step trials, with one signature and one conformance suite."""
