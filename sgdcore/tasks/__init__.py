"""What is trained: a data set, a model and a loss."""

from sgdcore.tasks.datasets import Dataset, line, linear, polynomial, sine
from sgdcore.tasks.models import LinearModel, Model, PolynomialModel
from sgdcore.tasks.task import Task

__all__ = [
    "Dataset",
    "LinearModel",
    "Model",
    "PolynomialModel",
    "Task",
    "line",
    "linear",
    "polynomial",
    "sine",
]
