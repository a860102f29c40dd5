"""SGD exactly as torch.optim.SGD does it, for thousands of trials at a time: arrays in, arrays out.

Three learning rates with momentum 0.9 on the line y = 0.8 x + 1.2; stability is not monotone in the learning rate:

>>> from sgdcore import Hyperparams, Task, judge, train
>>> from sgdcore.tasks import line
>>> hyperparams = Hyperparams(lr=[0.02, 0.03, 0.05], momentum=0.9)
>>> result = train(Task(line()), hyperparams, epochs=200, start=[0.0, 0.0])
>>> judge(result).verdict.tolist()
['diverged', 'converged', 'diverged']
>>> result.params.shape  # a row per trial: weight, bias
(3, 2)

A result can be trained further, with the same bits as one longer run:

>>> longer = train(Task(line()), hyperparams, epochs=100, start=result)
>>> longer.state.step
1500
"""

from typing import TYPE_CHECKING, Any

from sgdcore.early_stopping import EarlyStopping
from sgdcore.engine import train
from sgdcore.errors import InvalidHyperparams, InvalidTask, InvalidTraining, KernelUnavailable, SgdError
from sgdcore.hyperparams import Hyperparams
from sgdcore.recording import Recording
from sgdcore.rule import sgd
from sgdcore.schedules import Schedule, Scheduler
from sgdcore.tasks import Dataset, LinearModel, MlpModel, ModuleModel, PolynomialModel, Task
from sgdcore.trajectories import Trajectories
from sgdcore.verdict import Judgement, Thresholds, judge

if TYPE_CHECKING:
    from sgdcore.optimizer import SGD

__all__ = [
    "SGD",
    "Dataset",
    "EarlyStopping",
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
    "Schedule",
    "Scheduler",
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


def __dir__() -> list[str]:
    return __all__
