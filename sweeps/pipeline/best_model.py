"""The best trial's model: its parameters, the moments that standardised its data, and everything predictions need."""

from __future__ import annotations

import importlib.util
import site
import sysconfig
from importlib.metadata import packages_distributions, version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from sgdcore import Dataset, ModuleModel
from sgdcore.tasks.losses import SIGNED
from sweeps.arrow_columns import matrix
from sweeps.config.schema import FOLD, HYPERPARAMETERS
from sweeps.planning import task_loader
from sweeps.planning.model_kinds import MODEL_KINDS
from sweeps.planning.prepared import PreparedSweep
from sweeps.store.store import SweepFiles
from sweeps.tracking.base import BestModel

_EXAMPLE_ROWS = 5


def best_model(files: SweepFiles, prepared: PreparedSweep, shard: int, trial: int) -> BestModel:
    """Return the model of a stored trial, which must not have diverged."""
    table = files.shards.read(shard)
    table = table.filter(pc.equal(table["trial"], trial))
    options = [name for name in prepared.config.options if name in table.column_names]
    [row] = table.select(["trial_id", "seed", *HYPERPARAMETERS, *options]).to_pylist()
    description = prepared.config.task.dataset
    raw = task_loader.load_raw(description, row.get(FOLD, 0))
    arrays: dict[str, NDArray[Any]] = {
        "parameters": matrix(table["final"], 1)[0].astype(prepared.config.training.dtype)
    }
    if description.standardize == "none":
        moments: tuple[NDArray[np.float64], ...] = (*(np.full(raw.inputs.shape[1], v) for v in (0.0, 1.0)),)
        moments += (np.zeros(()), np.ones(()))
    else:
        moments = raw.moments(targets=description.standardize == "all")
    arrays |= dict(zip(("shift", "scale", "target_shift", "target_scale"), moments, strict=True))
    settings = {"features": list(raw.feature_names), "dtype": prepared.config.training.dtype, "seed": row["seed"]}
    model, kind = prepared.task.model, prepared.config.task.model.kind
    return BestModel(
        trial=trial,
        trial_id=row["trial_id"],
        params={name: str(row[name]) for name in (*HYPERPARAMETERS, *options, "seed")},
        settings=settings | {"kind": kind} | MODEL_KINDS[kind].export(model) | _predictions(prepared, raw),
        arrays=arrays,
        example=raw.inputs[:_EXAMPLE_ROWS],
        code=_code(model.factory) if isinstance(model, ModuleModel) and isinstance(model.factory, str) else {},
        requirements=_requirements(model, kind),
    )


def _predictions(prepared: PreparedSweep, raw: Dataset) -> dict[str, Any]:
    """Return what predictions need beyond one output that estimates one target; columns are those of a table."""
    loss, outputs = prepared.task.loss, prepared.task.model.outputs
    settings: dict[str, Any] = {"loss": loss} if loss in SIGNED else {}
    if outputs > 1:
        variances = [f"{name}_variance" for name in raw.target_names] if loss == "gaussian_nll" else []
        settings |= {"outputs": outputs, "columns": [*raw.target_names, *variances]}
    return settings


def _code(factory: str) -> dict[str, Path]:
    """Return the user's Python files that define a factory: its module, or all files of its package."""
    top = factory.partition(":")[0].partition(".")[0]
    found = importlib.util.find_spec(top)
    if found is None or _is_installed(top, found.origin):
        return {}
    if found.submodule_search_locations:
        folders = [Path(folder) for folder in found.submodule_search_locations]
        return {
            str(Path(top) / path.relative_to(folder)): path
            for folder in folders
            for path in sorted(folder.rglob("*.py"))
        }
    return {f"{top}.py": Path(str(found.origin))}


def _is_installed(top: str, origin: str | None) -> bool:
    """Return whether a package is installed or part of Python, rather than the user's own file."""
    folders = [*site.getsitepackages(), site.getusersitepackages(), *sysconfig.get_paths().values()]
    at = Path(origin).resolve() if origin else None
    return at is None or any(at.is_relative_to(Path(folder).resolve()) for folder in folders if top)


def _requirements(model: Any, kind: str) -> tuple[str, ...]:
    names = ["numpy", "pandas", *MODEL_KINDS[kind].packages]
    if isinstance(model, ModuleModel) and isinstance(model.factory, str) and not _code(model.factory):
        names += packages_distributions().get(model.factory.partition(":")[0].partition(".")[0], [])
    # Local version labels, as in 2.13.0+cpu, are not on the package index.
    return tuple(f"{name}=={version(name).partition('+')[0]}" for name in dict.fromkeys(names))
