"""The best trial's model: its parameters, what standardised its data, and what else a prediction takes."""

from __future__ import annotations

import importlib.util
import site
import sysconfig
from dataclasses import dataclass
from importlib.metadata import packages_distributions, version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from sgdcore import LinearModel, MlpModel, ModuleModel, PolynomialModel
from sgdcore.tasks.networks import ACTIVATIONS
from sweeps.arrow_columns import matrix
from sweeps.config.schema import HYPERPARAMETERS
from sweeps.execution.worker import Work
from sweeps.plan import task_loader
from sweeps.store.store import SweepFiles

_EXAMPLE_ROWS = 5


@dataclass(frozen=True, eq=False)
class BestModel:
    """A trained model from raw features to raw targets.

    Args:
        trial: the trial's number.
        trial_id: its id.
        params: its hyperparameters and seed, as texts.
        settings: the model's kind, dtype and shape; JSON can hold it.
        arrays: ``parameters`` (P,) in the run's dtype; ``shift`` and ``scale`` (d,), ``target_shift`` and
            ``target_scale`` () of the standardisation, 0 and 1 where there is none.
        example: (n, d) some raw inputs.
        code: Python files that loading needs, by their path below a folder on the import path; of modules only.
        requirements: what predicting needs from the package index, beside MLflow.
    """

    trial: int
    trial_id: str
    params: dict[str, str]
    settings: dict[str, Any]
    arrays: dict[str, NDArray[Any]]
    example: NDArray[np.float64]
    code: dict[str, Path]
    requirements: tuple[str, ...]


def best_model(files: SweepFiles, work: Work, shard: int, trial: int) -> BestModel:
    """The model of a stored trial that did not diverge."""
    table = files.read_shard(shard)
    table = table.filter(pc.equal(table["trial"], trial))
    [row] = table.select(["trial_id", "seed", *HYPERPARAMETERS]).to_pylist()
    description = work.config.task.dataset
    raw = task_loader.load_raw(description)
    arrays: dict[str, NDArray[Any]] = {"parameters": matrix(table["final"], 1)[0].astype(work.config.training.dtype)}
    if description.standardize == "none":
        moments: tuple[NDArray[np.float64], ...] = (*(np.full(raw.inputs.shape[1], v) for v in (0.0, 1.0)),)
        moments += (np.zeros(()), np.ones(()))
    else:
        moments = raw.moments(targets=description.standardize == "all")
    arrays |= dict(zip(("shift", "scale", "target_shift", "target_scale"), moments, strict=True))
    settings = {"features": list(raw.feature_names), "dtype": work.config.training.dtype, "seed": row["seed"]}
    model = work.task.model
    return BestModel(
        trial=trial,
        trial_id=row["trial_id"],
        params={name: str(row[name]) for name in (*HYPERPARAMETERS, "seed")},
        settings=settings | _shape(model),
        arrays=arrays,
        example=raw.inputs[:_EXAMPLE_ROWS],
        code=_code(model.factory) if isinstance(model, ModuleModel) and isinstance(model.factory, str) else {},
        requirements=_requirements(model),
    )


def _shape(model: Any) -> dict[str, Any]:
    match model:
        case LinearModel():
            return {"kind": "linear", "bias": model.bias}
        case PolynomialModel():
            return {"kind": "polynomial", "bias": model.bias, "degree": model.degree}
        case MlpModel():
            return {"kind": "mlp", "hidden": list(model.hidden), "activation": ACTIVATIONS[model.activation]}
        case ModuleModel():
            return {"kind": "module", "module": model.factory, "arguments": dict(model.arguments)}
    raise TypeError(f"not a model: {model!r}")


def _code(factory: str) -> dict[str, Path]:
    """The user's own Python files that a factory is imported from: its file, or all of its package."""
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
    """Whether a package comes from the package index, or with Python."""
    folders = [*site.getsitepackages(), site.getusersitepackages(), *sysconfig.get_paths().values()]
    at = Path(origin).resolve() if origin else None
    return at is None or any(at.is_relative_to(Path(folder).resolve()) for folder in folders if top)


def _requirements(model: Any) -> tuple[str, ...]:
    names = ["numpy", "pandas"]
    if isinstance(model, MlpModel | ModuleModel):
        names.append("torch")
    if isinstance(model, ModuleModel) and isinstance(model.factory, str) and not _code(model.factory):
        names += packages_distributions().get(model.factory.partition(":")[0].partition(".")[0], [])
    # A build's own mark, as in 2.13.0+cpu, is not in the package index.
    return tuple(f"{name}=={version(name).partition('+')[0]}" for name in dict.fromkeys(names))
