"""Devices: where a run computes. CUDA is detected without importing torch, which takes a second."""

from __future__ import annotations

import ctypes
import re
from functools import cache

from sgdcore.errors import KernelUnavailable


def resolve(device: str) -> str:
    """Return ``cpu`` or ``cuda:N`` for ``auto`` (first GPU, else the CPU), ``cpu``, ``cuda`` (GPU 0) or ``cuda:N``.

    Raises:
        KernelUnavailable: a GPU that does not exist, or an unknown device.
    """
    match = re.fullmatch(r"auto|cpu|cuda(?::(\d+))?", device)
    if match is None:
        raise KernelUnavailable(f"device must be auto, cpu, cuda or cuda:N, not {device!r}")
    if device == "cpu" or (device == "auto" and not gpus()):
        return "cpu"
    number = int(match.group(1) or 0)
    if number >= gpus():
        raise KernelUnavailable(f"device {device!r} needs a CUDA GPU that torch can use; found {gpus() or 'none'}")
    return f"cuda:{number}"


@cache
def gpus() -> int:
    """Return the number of CUDA devices that torch can use."""
    try:
        ctypes.CDLL("libcuda.so.1")  # the driver; without it torch finds no GPU, so torch is not imported
    except OSError:
        return 0
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0
