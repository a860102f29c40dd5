"""MLflow's tracking server: client, permissions, throttling and the local UI."""
