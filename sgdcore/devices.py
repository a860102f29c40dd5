"""Devices: where a run computes. CUDA is looked for without importing torch, which takes a second."""

from __future__ import annotations

import ctypes
import re
from functools import cache

from sgdcore.errors import KernelUnavailable


def resolve(device: str) -> str:
    """``cpu`` or ``cuda:N``, from ``auto`` (the first GPU, else the CPU), ``cpu``, ``cuda`` (GPU 0) or ``cuda:N``.

    Raises:
        KernelUnavailable: a GPU that is not there, or another word.
    """
    match = re.fullmatch(r"auto|cpu|cuda(?::(\d+))?", device)
    if match is None:
        raise KernelUnavailable(f"device must be auto, cpu, cuda or cuda:N, not {device!r}")
    if device == "cpu" or (device == "auto" and not gpus()):
        return "cpu"
    number = int(match.group(1) or 0)
    if number >= gpus():
        found = "there is none" if not gpus() else f"there {'is' if gpus() == 1 else 'are'} {gpus()}"
        raise KernelUnavailable(f"device {device!r} needs a CUDA GPU that torch can use; here {found}")
    return f"cuda:{number}"


@cache
def gpus() -> int:
    """CUDA devices that torch can use."""
    try:
        ctypes.CDLL("libcuda.so.1")  # the driver; without it there is nothing to ask torch for
    except OSError:
        return 0
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0
