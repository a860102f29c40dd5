"""Schedules: sweeps by cron expression, each tick exactly once, even if several schedulers run or some die."""
