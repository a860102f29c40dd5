"""Create random passwords and tokens for the service, each in its own file; existing files are kept."""

from __future__ import annotations

import hashlib
import os
import secrets
import sys
from pathlib import Path

NAMES = (
    "postgres",  # the superuser of PostgreSQL
    "postgres_mlflow",  # the owner of MLflow's tables
    "postgres_sweeps_writer",  # the bulk writer
    "postgres_sweeps_reader",
    "mlflow_admin",
    "mlflow_sweeps",  # the user that tracks sweeps
    "mlflow_viewer",
    "mlflow_session_key",
    "ray_token",  # its holder can run code on the cluster
    "dashboard",  # the dashboard's user 'sweeps'
    "dashboard_session_key",
    "s3_access_key",
    "s3_secret_key",
)
_ROUNDS = 600_000  # OWASP's recommendation of 2023 for PBKDF2 with SHA-256


def make_secrets(folder: Path) -> list[str]:
    """Write the missing secrets and return their names.

    Only its owner can open the folder. The files in it are readable: each container gets the few that it needs and
    reads them as a different user.
    """
    folder.mkdir(mode=0o700, exist_ok=True)
    folder.chmod(0o700)
    made = [name for name in NAMES if _write(folder / name, secrets.token_hex(32))]
    users = f"sweeps:{_hashed((folder / 'dashboard').read_text().strip())}\n"
    return made + ["dashboard_users"] * _write(folder / "dashboard_users", users)


def _write(path: Path, text: str) -> bool:
    """Write a file unless it exists: to a temporary file that is then linked, so that it is never incomplete."""
    if path.exists():
        return False
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.write_text(text)
    aside.chmod(0o444)
    try:
        os.link(aside, path)
    except FileExistsError:
        return False
    finally:
        aside.unlink()
    return True


def _hashed(password: str) -> str:
    """Hash like werkzeug.security.generate_password_hash, without requiring werkzeug."""
    salt = secrets.token_hex(8)
    digest = hashlib.pbkdf2_hmac("sha256", password.encode(), salt.encode(), _ROUNDS).hex()
    return f"pbkdf2:sha256:{_ROUNDS}${salt}${digest}"


if __name__ == "__main__":
    target = Path(sys.argv[1])
    new = make_secrets(target)
    sys.stdout.write(f"{target}: {', '.join(new) or 'all secrets exist'}\n")
