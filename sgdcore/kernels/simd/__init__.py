"""SIMD vectors for numba: lanes, elementwise functions and matrix products."""
