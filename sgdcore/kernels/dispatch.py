"""choose(): select the kernel and the device that train a task."""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np

from sgdcore.devices import gpus, resolve
from sgdcore.errors import KernelUnavailable
from sgdcore.kernels.base import Kernel
from sgdcore.kernels.perceptrons import perceptron_of
from sgdcore.tasks.task import Task

KERNELS = ("numba", "triton", "torch", "reference")
MOST_PARAMETERS = 256  # of the triton kernel: a thread steps a whole trial
PERCEPTRON_PARAMETERS = 1 << 17  # beyond it, tiles exceed the caches and the torch kernel is faster
WIDEST_VECTOR = 64  # bytes, of any CPU


@dataclass(frozen=True)
class Choice:
    """A kernel on a device."""

    name: str
    device: str
    advance: Kernel
    mixes_orders: bool = False  # whether one call can mix trials with different sample orders


def choose(task: Task, kernel: str = "auto", device: str = "auto") -> Choice:
    """Return the requested kernel, or the fastest for this task on this device. Raises as :func:`kernel_and_device`."""
    return _load(task, *kernel_and_device(task, kernel, device))


def kernel_and_device(task: Task, kernel: str = "auto", device: str = "auto") -> tuple[str, str]:
    """Return the name of the kernel that :func:`choose` loads, and its device.

    Raises:
        KernelUnavailable: the kernel or device does not exist, or they do not fit each other or the task.
    """
    if kernel not in ("auto", *KERNELS):
        raise KernelUnavailable(f"kernel must be auto, {', '.join(KERNELS[:-1])} or {KERNELS[-1]}, not {kernel!r}")
    if kernel == "triton" and not task.has_linear_kernel:
        raise KernelUnavailable(
            "the triton kernel trains linear and polynomial models with mse, one target and no weights only: "
            "use kernel torch"
        )
    if kernel == "numba" and not task.has_linear_kernel and (reason := _no_perceptron(task)):
        raise KernelUnavailable(
            "the numba kernel trains linear and polynomial models with mse, one target and no weights, and "
            f"perceptrons; not this task ({reason}): use kernel torch"
        )
    if kernel == "numba" and device == "auto":
        device = "cpu"
    device = resolve(device)
    if kernel == "auto":
        kernel = fastest(task, device)[0]
    if kernel == "numba" and device != "cpu":
        use = "triton" if task.has_linear_kernel else "torch"
        raise KernelUnavailable(f"the numba kernel runs on the CPU only, not on {device}: use kernel {use}")
    if kernel == "triton" and device == "cpu" and os.environ.get("TRITON_INTERPRET") != "1":
        raise KernelUnavailable("the triton kernel needs a CUDA GPU: use kernel numba")
    if kernel == "triton" and not _fits_a_thread(task):
        given = len(task.parameter_names)
        raise KernelUnavailable(
            f"the triton kernel holds up to {MOST_PARAMETERS} parameters, not {given}: use kernel torch"
        )
    return kernel, device


def cpu_pack(task: Task, dtype: str) -> int:
    """Return the trials of a task that is not quadratic that a CPU's thread steps together; fewer cost more each."""
    size = np.dtype(dtype).itemsize
    if fastest(task, "cpu")[0] == "numba":
        return WIDEST_VECTOR // size
    from sgdcore.kernels.module_torch.kernel import CPU_BYTES, CPU_TRIALS, RULE_VALUES

    return max(1, min(CPU_TRIALS, CPU_BYTES // (RULE_VALUES * len(task.parameter_names) * size)))


def planned(task: Task, device: str = "auto") -> tuple[str, str]:
    """Return the kernel that trains this task on a device and why; the device need not exist here."""
    return fastest(task, "cpu" if device == "cpu" or (device == "auto" and not gpus()) else "cuda")


def fastest(task: Task, device: str) -> tuple[str, str]:
    """Return the name of the fastest kernel for this task on a device, and the reason."""
    if task.has_linear_kernel:
        if device == "cpu":
            return "numba", "a model linear in its parameters"
        if _fits_a_thread(task):
            return "triton", "a model linear in its parameters, on a GPU"
        return "torch", f"on a GPU, more than {MOST_PARAMETERS} parameters"
    if device != "cpu":
        return "torch", "on a GPU"
    if reason := _no_perceptron(task):
        return "torch", reason
    if len(task.parameter_names) > PERCEPTRON_PARAMETERS:
        return "torch", f"more than {PERCEPTRON_PARAMETERS:,} parameters"
    return "numba", "Linear layers and activations"


def _fits_a_thread(task: Task) -> bool:
    return len(task.parameter_names) <= MOST_PARAMETERS


def _no_perceptron(task: Task) -> str:
    """Return why a task is not one of the kernel for perceptrons; empty if it is."""
    if task.model.linear:
        return f"a linear model with {_unlike_linear(task)}"
    if task.loss == "gaussian_nll":
        return "the loss gaussian_nll"
    found = perceptron_of(task.model, task.features.shape[1])
    return found if isinstance(found, str) else ""


def _unlike_linear(task: Task) -> str:
    """Return what a linear model's task has that the kernels for linear models do not train."""
    if task.loss != "mse":
        return task.loss
    return "sample weights" if task.criterion.is_weighted else "several targets"


def _load(task: Task, kernel: str, device: str) -> Choice:
    """Import the kernel's module and its dependencies."""
    if kernel == "numba" and not task.has_linear_kernel:
        from sgdcore.kernels.mlp_numba.kernel import advance

        return Choice(kernel, device, advance, mixes_orders=True)
    if kernel == "numba":
        from sgdcore.kernels.linear_numba.kernel import advance

        return Choice(kernel, device, advance)
    if kernel == "triton":
        try:
            import triton  # noqa: F401
        except ImportError as error:
            raise KernelUnavailable(
                "the triton kernel needs the package triton, which CUDA builds of torch include"
            ) from error
        from sgdcore.kernels.linear_triton.kernel import advance

        return Choice(kernel, device, advance, mixes_orders=True)
    if kernel == "torch":
        from sgdcore.kernels.module_torch.kernel import advance

        return Choice(kernel, device, advance, mixes_orders=True)
    from sgdcore.kernels.reference import advance

    return Choice(kernel, device, advance)
