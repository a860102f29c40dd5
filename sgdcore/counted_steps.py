"""Counting of steps while kernels train."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

from sgdcore.kernels.base import OnSteps


@contextmanager
def counted(on_steps: OnSteps | None, steps: int) -> Iterator[OnSteps | None]:
    """Yield a function for the kernel to count its steps with; at the end, count those that it has not counted."""
    if on_steps is None:
        yield None
        return
    lock, left = Lock(), steps

    def count(done: int) -> None:
        nonlocal left
        with lock:
            if (done := min(done, left)) > 0:
                left -= done
                on_steps(done)

    yield count
    count(left)
