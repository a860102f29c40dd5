"""Verification of sweeps: audits, replays, expected results and regression checks."""
