"""The best trial's model as an MLflow pyfunc model; this file is copied into the model and is self-contained.

The model maps raw features to raw targets and undoes the standardisation of the training data. Like the sweep's losses,
models that are linear in their parameters are summed feature by feature in float64, with features rounded to the dtype
of the run, so the bits of a prediction do not depend on the other rows. Networks run in torch, in their dtype.

With loss poisson_nll a prediction is the expected count. With gaussian_nll there is a column of variances per target.
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

_LEAST_VARIANCE = 1e-6  # of gaussian_nll, as in training


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
    ) -> np.ndarray | pd.DataFrame:
        """Return (n,) float64 predictions for a table with the features as named float columns, in any order.

        If the settings name several columns, return a table of them.
        """
        inputs = np.asarray(model_input[self.settings["features"]], dtype=np.float64)
        inputs = (inputs - self.arrays["shift"]) / self.arrays["scale"]
        if self.settings["kind"] == "polynomial":
            inputs = np.multiply.accumulate(np.repeat(inputs, self.settings["degree"], axis=1), axis=1)
        features = np.ascontiguousarray(inputs, dtype=self.settings["dtype"])
        outputs = self._linear(features) if self.module is None else self._network(features)
        if columns := self.settings.get("columns"):
            return pd.DataFrame(self._in_units(outputs), columns=columns)
        return np.asarray(self._in_units(outputs)[:, 0])

    def _in_units(self, outputs: np.ndarray) -> np.ndarray:
        """Return (n, columns) predictions of (n, outputs) outputs, in the units of the targets."""
        scale, shift, loss = self.arrays["target_scale"], self.arrays["target_shift"], self.settings.get("loss")
        if loss == "poisson_nll":
            return np.asarray(np.exp(outputs))
        if loss != "gaussian_nll":
            return np.asarray(outputs * scale + shift)
        means, raw = np.split(outputs, 2, axis=1)
        variances = np.maximum(np.logaddexp(0, raw), _LEAST_VARIANCE)  # softplus
        return np.column_stack([means * scale + shift, variances * scale**2])

    def _linear(self, features: np.ndarray) -> np.ndarray:
        parameters, count = self.arrays["parameters"].astype(np.float64), self.settings.get("outputs", 1)
        weights = parameters[: count * features.shape[1]].reshape(count, -1)
        total = np.zeros((len(features), count))
        for column, weight in zip(features.T.astype(np.float64), weights.T, strict=True):
            total = total + column[:, np.newaxis] * weight
        return total + parameters[-count:] if self.settings["bias"] else total

    def _network(self, features: np.ndarray) -> np.ndarray:
        import torch

        assert self.module is not None
        with torch.no_grad():
            outputs = self.module(torch.from_numpy(features))
        return np.asarray(outputs.reshape(len(features), -1).double().numpy())

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
    return nn.Sequential(*layers, nn.Linear(width, settings.get("outputs", 1)))


def _imported(settings: dict[str, Any]) -> Any:
    place, _, name = settings["module"].partition(":")
    found: Any = importlib.import_module(place)
    for part in name.split("."):
        found = getattr(found, part)
    return found(**settings["arguments"])


mlflow.models.set_model(Predictor())
