-- Grant other users access to MLflow's tables. The owner runs this after the tables are created; it can be repeated.

-- The bulk writer adds the runs of trials. Locking an experiment's row, so that it cannot be deleted meanwhile, needs
-- UPDATE on a column. The right to set session_replication_role would double the speed by skipping foreign key checks;
-- it is not a right on a table, so it is not granted here.
GRANT INSERT ON runs, tags, params, metrics, latest_metrics TO sweeps_writer;
GRANT SELECT ON runs, tags, params, metrics, latest_metrics, experiments, alembic_version TO sweeps_writer;
GRANT UPDATE (last_update_time) ON experiments TO sweeps_writer;

-- Read-only users, such as Grafana, see everything except the keys of language models.
GRANT SELECT ON ALL TABLES IN SCHEMA public TO sweeps_reader;
REVOKE SELECT ON secrets FROM sweeps_reader;
