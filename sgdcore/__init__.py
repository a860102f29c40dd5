"""sgdcore: SGD exactly as in torch.optim.SGD, for thousands of trials at a time. Arrays in, arrays out."""

from typing import TYPE_CHECKING, Any

from sgdcore.engine import train
from sgdcore.errors import InvalidHyperparams, InvalidTask, InvalidTraining, KernelUnavailable, SgdError
from sgdcore.hyperparams import Hyperparams
from sgdcore.recording import Recording
from sgdcore.rule import sgd
from sgdcore.tasks import Dataset, LinearModel, MlpModel, ModuleModel, PolynomialModel, Task
from sgdcore.trajectories import Trajectories
from sgdcore.verdict import Judgement, Thresholds, judge

if TYPE_CHECKING:
    from sgdcore.optimizer import SGD

__all__ = [
    "SGD",
    "Dataset",
    "Hyperparams",
    "InvalidHyperparams",
    "InvalidTask",
    "InvalidTraining",
    "Judgement",
    "KernelUnavailable",
    "LinearModel",
    "MlpModel",
    "ModuleModel",
    "PolynomialModel",
    "Recording",
    "SgdError",
    "Task",
    "Thresholds",
    "Trajectories",
    "judge",
    "sgd",
    "train",
]


def __getattr__(name: str) -> Any:
    if name == "SGD":  # lazy: torch takes a second to import
        from sgdcore.optimizer import SGD

        return SGD
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
