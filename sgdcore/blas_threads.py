"""one_thread(): linear algebra whose sums, and so whose bits, do not depend on how many cores a machine has."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any


def one_thread() -> AbstractContextManager[Any]:
    """While the context lasts, numpy's linear algebra keeps to one thread: with more, it splits its sums among them.

    The kernels have threads of their own, whose number changes no result, and go on having them.
    """
    from threadpoolctl import ThreadpoolController

    limited: AbstractContextManager[Any] = ThreadpoolController().limit(limits=1, user_api="blas")
    return limited
