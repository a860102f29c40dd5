"""The digest of everything that defines a trial apart from its row: data, model, loss and training."""

from __future__ import annotations

import hashlib
import json

from sgdcore import Task
from sgdcore.tasks import ModuleModel
from sweeps.config.schema import SweepConfig


def training_digest(config: SweepConfig, task: Task) -> str:
    """Return the hexadecimal BLAKE2b digest of the data, the model, the loss and the training options.

    The device and ``compile`` are left out: they do not define a trial.
    """
    model = config.task.model.model_dump(mode="json")
    if isinstance(task.model, ModuleModel):
        model["source"] = task.model.source_digest
    training = config.training.model_dump(mode="json", exclude={"device", "compile"})
    document: dict[str, object] = {
        "data": task.dataset.digest,
        "model": model,
        "loss": config.task.loss,
        "training": training,
    }
    if config.task.loss == "huber":
        document["huber_delta"] = config.task.huber_delta
    return hashlib.blake2b(json.dumps(document, sort_keys=True).encode(), digest_size=16).hexdigest()
