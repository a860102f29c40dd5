"""choose(): select the kernel and the device that train a task."""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np

from sgdcore.devices import resolve
from sgdcore.errors import KernelUnavailable
from sgdcore.kernels.base import Kernel
from sgdcore.tasks.networks import MlpModel
from sgdcore.tasks.task import Task

KERNELS = ("numba", "triton", "torch", "reference")
MOST_PARAMETERS = 256  # of the triton kernel: a thread steps a whole trial
PERCEPTRON_ACTIVATIONS = ("relu", "tanh", "sigmoid", "silu")  # supported by the numba kernel
WIDEST_VECTOR = 64  # bytes, of any CPU
PERCEPTRON_PARAMETERS = 1 << 17  # beyond it, tiles exceed the caches and the torch kernel is faster


@dataclass(frozen=True)
class Choice:
    """A kernel on a device."""

    name: str
    device: str
    advance: Kernel
    mixes_orders: bool = False  # whether one call can mix trials with different sample orders


def choose(task: Task, kernel: str = "auto", device: str = "auto") -> Choice:
    """Return the requested kernel, or the fastest for this task on this device.

    Raises:
        KernelUnavailable: the kernel or device does not exist, or they do not fit each other or the task.
    """
    if kernel not in ("auto", *KERNELS):
        raise KernelUnavailable(f"kernel must be auto, {', '.join(KERNELS[:-1])} or {KERNELS[-1]}, not {kernel!r}")
    if kernel == "triton" and not task.is_quadratic:
        raise KernelUnavailable("the triton kernel trains linear and polynomial models with mse only: use kernel torch")
    if kernel == "numba" and not (task.is_quadratic or _is_perceptron(task)):
        raise KernelUnavailable(
            "the numba kernel trains linear and polynomial models with mse, and mlp models with the activations "
            f"{', '.join(PERCEPTRON_ACTIVATIONS)}: use kernel torch"
        )
    if kernel == "numba" and device == "auto":
        device = "cpu"
    device = resolve(device)
    if kernel == "auto":
        kernel = _fastest(task, device)
    if kernel == "numba" and device != "cpu":
        use = "triton" if task.is_quadratic else "torch"
        raise KernelUnavailable(f"the numba kernel runs on the CPU only, not on {device}: use kernel {use}")
    if kernel == "triton" and device == "cpu" and os.environ.get("TRITON_INTERPRET") != "1":
        raise KernelUnavailable("the triton kernel needs a CUDA GPU: use kernel numba")
    if kernel == "triton" and not _fits_a_thread(task):
        given = len(task.parameter_names)
        raise KernelUnavailable(
            f"the triton kernel holds up to {MOST_PARAMETERS} parameters, not {given}: use kernel torch"
        )
    return _load(task, kernel, device)


def cpu_pack(task: Task, dtype: str) -> int:
    """Return the trials of a task that is not quadratic that a CPU's thread steps together; fewer cost more each."""
    size = np.dtype(dtype).itemsize
    if _fastest(task, "cpu") == "numba":
        return WIDEST_VECTOR // size
    from sgdcore.kernels.module_torch.kernel import CPU_BYTES, CPU_TRIALS, RULE_VALUES

    return max(1, min(CPU_TRIALS, CPU_BYTES // (RULE_VALUES * len(task.parameter_names) * size)))


def _fastest(task: Task, device: str) -> str:
    if task.is_quadratic and device == "cpu":
        return "numba"
    if task.is_quadratic and _fits_a_thread(task):
        return "triton"
    small = _is_perceptron(task) and len(task.parameter_names) <= PERCEPTRON_PARAMETERS
    return "numba" if device == "cpu" and small else "torch"


def _fits_a_thread(task: Task) -> bool:
    return len(task.parameter_names) <= MOST_PARAMETERS


def _is_perceptron(task: Task) -> bool:
    return isinstance(task.model, MlpModel) and task.model.activation in PERCEPTRON_ACTIVATIONS


def _load(task: Task, kernel: str, device: str) -> Choice:
    """Import the kernel's module and its dependencies."""
    if kernel == "numba" and not task.is_quadratic:
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
