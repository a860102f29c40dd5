"""one_thread(): linear algebra whose sums, and so whose bits, do not depend on the machine's number of cores."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any


def one_thread() -> AbstractContextManager[Any]:
    """Limit numpy's linear algebra to one thread inside the context: more threads would split its sums.

    The kernels have their own threads, whose number changes no result. They are not limited.
    """
    from threadpoolctl import ThreadpoolController

    limited: AbstractContextManager[Any] = ThreadpoolController().limit(limits=1, user_api="blas")
    return limited
