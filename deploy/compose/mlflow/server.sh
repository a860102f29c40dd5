#!/bin/sh
# Run MLflow's server with logins and with all its data in PostgreSQL.
#
# Environment: PGHOST, PGPORT, PGUSER, PGPASSWORD of the tables' owner; MLFLOW_FLASK_SERVER_SECRET_KEY, which signs
# sessions; MLFLOW_ARTIFACTS_DESTINATION; MLFLOW_SERVER_ALLOWED_HOSTS; HOST, PORT and WORKERS. The passwords of MLflow's
# users are in the files mlflow_* of the folder $SECRETS, by default /run/secrets.
set -eu
here=$(dirname "$(readlink -f "$0")")
export MLFLOW_AUTH_CONFIG_PATH="$here/auth.ini"
export MLFLOW_BACKEND_STORE_URI=postgresql:///mlflow
export MLFLOW_DISABLE_TELEMETRY=true
export MLFLOW_ENABLE_WORKSPACES=true                 # without workspaces every user can create experiments
export MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false      # saves ten processes and a gigabyte, for language models only
export MLFLOW_SQLALCHEMYSTORE_POOL_SIZE=10           # per worker; further client threads wait instead of failing
export MLFLOW_SQLALCHEMYSTORE_MAX_OVERFLOW=20
metrics=$(mktemp -d)

python "$here/prepare.py"
exec mlflow server --app-name basic-auth --serve-artifacts --expose-prometheus "$metrics" \
    --host "${HOST:-127.0.0.1}" --port "${PORT:-5000}" --workers "${WORKERS:-2}" --uvicorn-opts "--loop uvloop"
