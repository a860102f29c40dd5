"""Hyperparameter sweeps of torch.optim.SGD: thousands of exact trials at a time, logged to MLflow and reported.

In a program or a notebook::

    import sweeps

    config = sweeps.load_config("sweep.yaml")
    results = sweeps.run(config)  # or sweeps.resume("1a2b3c4d"), sweeps.open_results("1a2b3c4d")
    results.trials  # a pandas.DataFrame, one row per trial
    sweeps.figures.stability_map(results)  # a plotly figure

``sweeps --help`` describes the command line. Names outside ``sweeps.__all__`` and ``sgdcore.__all__`` may change.
"""

from typing import TYPE_CHECKING, Any

from sweeps.errors import (
    CheckFailed,
    ClusterLost,
    ConfigError,
    InputError,
    NotLogged,
    SweepsError,
    TrialsFailed,
)
from sweeps.version import __version__

if TYPE_CHECKING:
    from sweeps.api import PlanSummary, load_config, open_results, open_store, plan, resume, run
    from sweeps.config.schema import SweepConfig
    from sweeps.report import figures
    from sweeps.results.results import Results
    from sweeps.store.store import Store

__all__ = [
    "CheckFailed",
    "ClusterLost",
    "ConfigError",
    "InputError",
    "NotLogged",
    "PlanSummary",
    "Results",
    "Store",
    "SweepConfig",
    "SweepsError",
    "TrialsFailed",
    "__version__",
    "figures",
    "load_config",
    "open_results",
    "open_store",
    "plan",
    "resume",
    "run",
]

_LAZY = {
    "PlanSummary": "sweeps.api",
    "Results": "sweeps.results.results",
    "Store": "sweeps.store.store",
    "SweepConfig": "sweeps.config.schema",
    "load_config": "sweeps.api",
    "open_results": "sweeps.api",
    "open_store": "sweeps.api",
    "plan": "sweeps.api",
    "resume": "sweeps.api",
    "run": "sweeps.api",
}


def __getattr__(name: str) -> Any:
    """Import on first use: ``import sweeps`` costs nothing."""
    from importlib import import_module

    if name == "figures":
        return import_module("sweeps.report.figures")
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
