"""Schedules: sweeps by cron expression, each tick exactly once, however many schedulers run, or die."""
