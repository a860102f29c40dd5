"""Kernels: different ways of stepping the same trials, behind one signature and one conformance suite."""
