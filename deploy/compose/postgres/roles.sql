-- Create PostgreSQL's users and MLflow's two databases. psql runs this once, as a superuser, in a new cluster.
-- Passwords come from the files in the folder $SECRETS, by default /run/secrets.

-- A failing statement would be logged with its password.
SET log_min_error_statement = panic;
\set mlflow `cat "${SECRETS:-/run/secrets}/postgres_mlflow"`
\set writer `cat "${SECRETS:-/run/secrets}/postgres_sweeps_writer"`
\set reader `cat "${SECRETS:-/run/secrets}/postgres_sweeps_reader"`

CREATE ROLE mlflow LOGIN PASSWORD :'mlflow';
CREATE ROLE sweeps_writer LOGIN PASSWORD :'writer';
CREATE ROLE sweeps_reader LOGIN PASSWORD :'reader';
ALTER ROLE sweeps_reader SET default_transaction_read_only = on;

CREATE DATABASE mlflow OWNER mlflow;
CREATE DATABASE mlflow_auth OWNER mlflow; -- users and permissions; no other role can read it
REVOKE ALL ON DATABASE mlflow, mlflow_auth, postgres FROM PUBLIC;
GRANT CONNECT ON DATABASE mlflow TO sweeps_writer, sweeps_reader;
-- With an unknown version of MLflow, the bulk writer first tests itself on temporary tables.
GRANT TEMPORARY ON DATABASE mlflow TO sweeps_writer;
