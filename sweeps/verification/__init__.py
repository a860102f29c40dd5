"""Verification: audits, replays, expected results and regression checks."""
