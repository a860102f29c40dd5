"""Tracking of sweeps: the tracker protocol, what each trial logs, and background logging."""
