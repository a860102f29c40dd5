"""The best trial's model as an MLflow pyfunc model; this file is copied into the model and is self-contained.

The model maps raw features to raw targets and undoes the standardisation of the training data. Like the sweep's losses,
models that are linear in their parameters are summed feature by feature in float64, with features rounded to the dtype
of the run, so the bits of a prediction do not depend on the other rows. Networks run in torch, in their dtype.
"""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
from mlflow.pyfunc.model import PythonModel


class Predictor(PythonModel):
    """y = model((x - shift) / scale) * target_scale + target_shift."""

    def load_context(self, context: Any) -> None:
        """Read the settings and the arrays."""
        folder = Path(context.artifacts["model"])
        self.settings: dict[str, Any] = json.loads((folder / "model.json").read_text(encoding="utf-8"))
        with np.load(folder / "arrays.npz") as arrays:
            self.arrays = dict(arrays)
        self.module = None if self.settings["kind"] in ("linear", "polynomial") else self._module()

    def predict(  # type: ignore[override, unused-ignore]
        self, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> np.ndarray:
        """Return (n,) float64 predictions for a table with the features as named float columns, in any order."""
        inputs = np.asarray(model_input[self.settings["features"]], dtype=np.float64)
        inputs = (inputs - self.arrays["shift"]) / self.arrays["scale"]
        if self.settings["kind"] == "polynomial":
            inputs = np.multiply.accumulate(np.repeat(inputs, self.settings["degree"], axis=1), axis=1)
        features = np.ascontiguousarray(inputs, dtype=self.settings["dtype"])
        outputs = self._linear(features) if self.module is None else self._network(features)
        return np.asarray(outputs * self.arrays["target_scale"] + self.arrays["target_shift"])

    def _linear(self, features: np.ndarray) -> np.ndarray:
        parameters = self.arrays["parameters"].astype(np.float64)
        total = np.zeros(len(features))
        for column, weight in zip(features.T.astype(np.float64), parameters, strict=False):
            total = total + column * weight
        return total + parameters[-1] if self.settings["bias"] else total

    def _network(self, features: np.ndarray) -> np.ndarray:
        import torch

        assert self.module is not None
        with torch.no_grad():
            outputs = self.module(torch.from_numpy(features))
        return np.asarray(outputs.reshape(-1).double().numpy())

    def _module(self) -> Any:
        """Build the network with the trial's parameters, in training mode, as in the sweep."""
        import torch

        dtype = getattr(torch, self.settings["dtype"])
        before = torch.get_default_dtype()
        torch.set_default_dtype(dtype)
        try:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(self.settings["seed"])
                module = _perceptron(self.settings) if self.settings["kind"] == "mlp" else _imported(self.settings)
        finally:
            torch.set_default_dtype(before)
        module = module.to(dtype)
        values = torch.from_numpy(self.arrays["parameters"])
        first = 0
        for parameter in (p for p in module.parameters() if p.requires_grad):
            parameter.data.copy_(values[first : first + parameter.numel()].reshape(parameter.shape))
            first += parameter.numel()
        return module


def _perceptron(settings: dict[str, Any]) -> Any:
    from torch import nn

    layers: list[nn.Module] = []
    width = len(settings["features"])
    for units in settings["hidden"]:
        layers += [nn.Linear(width, units), getattr(nn, settings["activation"])()]
        width = units
    return nn.Sequential(*layers, nn.Linear(width, 1))


def _imported(settings: dict[str, Any]) -> Any:
    place, _, name = settings["module"].partition(":")
    found: Any = importlib.import_module(place)
    for part in name.split("."):
        found = getattr(found, part)
    return found(**settings["arguments"])


mlflow.models.set_model(Predictor())
