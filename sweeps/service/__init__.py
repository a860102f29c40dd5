"""Services around sweeps: cluster jobs, schedules, monitoring, diagnosis and backups."""
