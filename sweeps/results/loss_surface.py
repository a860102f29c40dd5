"""The exact loss surface over a linear model's parameters under squared loss."""

from __future__ import annotations

from sgdcore.tasks.task import Quadratic
from sweeps.errors import DataError
from sweeps.planning.model_kinds import MODEL_KINDS
from sweeps.planning.task_loader import load_task
from sweeps.results.results import Results


def loss_surface(results: Results) -> Quadratic | None:
    """Return the training loss as a quadratic form of two parameters.

    Return None for other models and losses, and if the data are unavailable or differ from those of the sweep: a
    report can be written on a machine that does not have the data.
    """
    if results.config.task.loss != "mse" or not MODEL_KINDS[results.config.task.model.kind].is_linear:
        return None
    if len(results.parameters) != 2:
        return None
    try:
        task = load_task(results.config.task)
    except DataError:
        return None
    recorded = results.manifest.get("data", {}).get("digest", task.dataset.digest)
    return task.quadratic(results.config.training.dtype) if task.dataset.digest == recorded else None
