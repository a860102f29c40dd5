"""The manifest of a sweep, stored as plan.json."""

from __future__ import annotations

import platform
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

from sweeps.config import strict_yaml
from sweeps.config.digests import config_digests
from sweeps.pipeline.reuse import results_key
from sweeps.planning.prepared import PreparedSweep, data_summary
from sweeps.version import __version__


def make_manifest(prepared: PreparedSweep, sweep_id: str, fresh: bool) -> dict[str, Any]:
    """Return the content of plan.json: counts, digests, the data's shape and the versions of packages."""
    packages = ("numpy", "numba", "torch", "ray", "mlflow", "pyarrow")
    now = datetime.now(UTC)
    return {
        "sweep_id": sweep_id,
        "name": prepared.config.name,
        "created": now.isoformat(timespec="seconds"),
        "started_ms": int(now.timestamp() * 1000),
        **prepared.plan.summary(),
        "config": config_digests(strict_yaml.read(prepared.config.to_yaml(), "config")),
        "results": results_key(prepared),
        "fresh": fresh,
        "data": data_summary(prepared.task),
        "versions": {
            "sweeps": __version__,
            "python": platform.python_version(),
            **{package: version(package) for package in packages},
        },
    }
