"""Errors that sgdcore raises for bad input; numerical failure is data, never an exception.

SgdError
├── InvalidHyperparams   (ValueError)  hyperparameters that torch.optim.SGD rejects
├── InvalidTask          (ValueError)  a data set, model or loss that cannot be trained
├── InvalidTraining      (ValueError)  epochs, batch size, order, dtype, start values, recording
└── KernelUnavailable    (RuntimeError)  the requested kernel cannot run this task here
"""


class SgdError(Exception):
    """The base class of sgdcore's errors: ``except sgdcore.SgdError`` catches them all."""


class InvalidHyperparams(SgdError, ValueError):
    """Hyperparameters that torch.optim.SGD rejects, with torch's wording."""


class InvalidTask(SgdError, ValueError):
    """A data set, model or loss that cannot be trained."""


class InvalidTraining(SgdError, ValueError):
    """Epochs, batch size, order, dtype, start values or recording settings that are invalid."""


class KernelUnavailable(SgdError, RuntimeError):
    """The requested kernel cannot run this task on this machine."""
