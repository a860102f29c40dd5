-- What others than their owner may do with MLflow's tables; run by the owner when the tables are there, and again.

-- Who tracks in bulk adds the runs of trials. UPDATE of a column is what locking an experiment's row takes, so that it
-- is not deleted meanwhile. The right to set session_replication_role would double the speed, by leaving out the checks
-- of foreign keys; it is no table's right, so it is not given here.
GRANT INSERT ON runs, tags, params, metrics, latest_metrics TO sweeps_writer;
GRANT SELECT ON runs, tags, params, metrics, latest_metrics, experiments, alembic_version TO sweeps_writer;
GRANT UPDATE (last_update_time) ON experiments TO sweeps_writer;

-- Who looks only, such as a chart in Grafana, sees all but the keys of language models.
GRANT SELECT ON ALL TABLES IN SCHEMA public TO sweeps_reader;
REVOKE SELECT ON secrets FROM sweeps_reader;
