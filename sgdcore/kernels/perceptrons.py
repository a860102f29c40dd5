"""perceptron_of(): the layers of a model that the numba kernel for perceptrons trains, or why it does not."""

from __future__ import annotations

from functools import lru_cache

from sgdcore.tasks.models import Model
from sgdcore.tasks.networks import MlpModel, ModuleModel, Perceptron

ACTIVATIONS = ("relu", "tanh", "sigmoid", "silu")  # supported by the numba kernel


def perceptron_of(model: Model, width: int) -> Perceptron | str:
    """Return the layers of a model with ``width`` features, or the reason why it is not a perceptron."""
    if isinstance(model, MlpModel):
        if model.activation not in ACTIVATIONS:
            return f"the activation {model.activation} is not one of {', '.join(ACTIVATIONS)}"
        return model.perceptron(width)
    return _recognised(model, width) if isinstance(model, ModuleModel) else "it is not a network"


@lru_cache(maxsize=64)
def _recognised(model: ModuleModel, width: int) -> Perceptron | str:
    from sgdcore.kernels.recognition import recognise  # imports torch, which the module has done

    return recognise(model, width)
