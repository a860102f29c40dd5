"""Tasks: a data set, a model and a loss."""

from sgdcore.tasks.datasets import Dataset, line, linear, polynomial, sine
from sgdcore.tasks.models import LinearModel, Model, PolynomialModel
from sgdcore.tasks.networks import MlpModel, ModuleModel
from sgdcore.tasks.task import Task

__all__ = [
    "Dataset",
    "LinearModel",
    "MlpModel",
    "Model",
    "ModuleModel",
    "PolynomialModel",
    "Task",
    "line",
    "linear",
    "polynomial",
    "sine",
]
