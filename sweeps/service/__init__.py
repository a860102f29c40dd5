"""What a team runs: cluster jobs, schedules, monitoring, diagnosis and backups."""
