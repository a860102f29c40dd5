"""Access to MLflow tracking servers: client, permissions, throttling and the local UI."""
