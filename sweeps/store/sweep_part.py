"""The base class of the parts of a sweep's files: shards, stages, report and tracking record."""

from __future__ import annotations

from collections.abc import Callable

from sweeps.store.backends.base import Storage


class SweepPart:
    """A part of one sweep's files.

    Args:
        storage: the sweep's files.
        check_lease: called before every write; raises SweepHeld if this process has lost the sweep.
    """

    def __init__(self, storage: Storage, check_lease: Callable[[], None]) -> None:
        """Access the files without reading them."""
        self._storage, self._check_lease = storage, check_lease
