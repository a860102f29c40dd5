"""MLflow's database tables in SQLite and PostgreSQL, for the bulk writer."""
