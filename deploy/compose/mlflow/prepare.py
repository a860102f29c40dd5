"""Prepare MLflow's server before it starts: its tables, other PostgreSQL users' access to them, and its users.

Can be repeated: a password that has changed in its file is changed in the server.
"""

from __future__ import annotations

import os
from pathlib import Path

import psycopg
from mlflow.server.auth.sqlalchemy_store import SqlAlchemyStore as UserStore
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from mlflow.utils.workspace_utils import DEFAULT_WORKSPACE_NAME

GRANTS = Path(__file__).parents[1] / "postgres" / "grants.sql"
TABLES, USERS = "postgresql:///mlflow", "postgresql:///mlflow_auth"  # PGHOST, PGUSER and PGPASSWORD have the rest


def make_tables() -> None:
    """Create MLflow's tables in an empty database; a database of another version is rejected with instructions."""
    SqlAlchemyStore(TABLES, "mlflow-artifacts:/").engine.dispose()
    with psycopg.connect(TABLES) as connection:
        connection.execute(GRANTS.read_text())


def make_users(passwords: Path) -> None:
    """Create or update the administrator, the user that tracks sweeps, and the read-only user."""
    store = UserStore()
    store.init_db(USERS)
    for name in ("admin", "sweeps", "viewer"):
        password = (passwords / f"mlflow_{name}").read_text().strip()
        if not store.has_user(name):
            store.create_user(name, password, is_admin=name == "admin")
        elif not store.authenticate_user(name, password):
            store.update_user(name, password=password)
    store.set_workspace_permission(DEFAULT_WORKSPACE_NAME, "sweeps", "USE")
    store.engine.dispose()


if __name__ == "__main__":
    make_tables()
    make_users(Path(os.environ.get("SECRETS", "/run/secrets")))
