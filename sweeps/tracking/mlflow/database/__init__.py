"""MLflow's tables in SQLite and PostgreSQL, for the bulk writer."""
