"""The digest of everything that defines a trial apart from its row: data, model, loss and training."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from sgdcore import Schedule, Task
from sgdcore.tasks import ModuleModel
from sweeps.config.schedules import schedule
from sweeps.config.schema import SweepConfig


def identity(config: SweepConfig, task: Task) -> dict[str, Any]:
    """Return the data, the model, the loss and the training options as a document.

    The device and ``compile`` are left out: they do not define a trial.
    """
    model = config.task.model.model_dump(mode="json")
    if isinstance(task.model, ModuleModel):
        model["source"] = task.model.source_digest
    training = config.training.model_dump(
        mode="json", exclude={"device", "compile", "schedule", "groups", "early_stopping"}
    )
    if config.training.groups is not None:
        training["groups"] = {name: list(patterns) for name, patterns in config.training.groups.items()}
    document: dict[str, Any] = {
        "data": task.dataset.digest,
        "model": model,
        "loss": config.task.loss,
        "training": training,
    }
    if config.task.loss == "huber":
        document["huber_delta"] = config.task.huber_delta
    if config.task.loss == "quantile":
        document["quantile"] = config.task.quantile
    if config.training.schedule is not None:
        document["schedule"] = _plain(schedule(config.training.schedule))
    if (rule := config.training.early_stopping) is not None:  # trials stop at recorded points
        points = {**config.recording, "by_epoch": config.mixes_batch_sizes}
        document["early_stopping"] = {**rule.model_dump(), "loss": config.stopping_loss, "record": points}
    return document


def digest(document: Mapping[str, Any]) -> str:
    """Return the hexadecimal BLAKE2b digest of a document."""
    return hashlib.blake2b(json.dumps(document, sort_keys=True).encode(), digest_size=16).hexdigest()


def changed(document: Mapping[str, Any], *, schedule: Schedule | None, batch_size: int | None, data: str | None) -> str:
    """Return the digest of a document with another schedule, batch size and digest of the data, if given."""
    own = dict(document)
    if schedule is not None:
        own["schedule"] = _plain(schedule)
    if batch_size is not None:
        own["training"] = document["training"] | {"batch_size": batch_size}
    if data is not None:
        own["data"] = data
    return digest(own)


def _plain(given: Schedule) -> dict[str, Any]:
    parts = [{"kind": part.kind, **dict(part.options)} for part in given.schedulers]
    return {"schedulers": parts, "milestones": list(given.milestones), "interval": given.interval}
