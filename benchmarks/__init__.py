"""Benchmarks against other libraries, side by side in one run: ``python -m benchmarks.<name>``."""
