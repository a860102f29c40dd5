"""Every error that sgdcore raises for bad input; numerical failure is data, never an exception.

SgdError
├── InvalidHyperparams   (ValueError)  what torch.optim.SGD would refuse
├── InvalidTask          (ValueError)  a data set, model or loss that cannot be trained
├── InvalidTraining      (ValueError)  epochs, batch size, order, dtype, start values, recording
└── KernelUnavailable    (RuntimeError)  the kernel asked for cannot run this task here
"""


class SgdError(Exception):
    """The root of sgdcore's errors: ``except sgdcore.SgdError`` catches them all."""


class InvalidHyperparams(SgdError, ValueError):
    """Hyperparameters that torch.optim.SGD refuses, with torch's wording."""


class InvalidTask(SgdError, ValueError):
    """A data set, model or loss that cannot be trained."""


class InvalidTraining(SgdError, ValueError):
    """Epochs, batch size, order, dtype, start values or recording that make no sense."""


class KernelUnavailable(SgdError, RuntimeError):
    """The kernel asked for cannot run this task on this machine."""
