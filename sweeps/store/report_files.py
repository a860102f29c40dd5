"""Report files: the pages and tables of one sweep's report."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from sweeps.errors import StoreError
from sweeps.store.sweep_part import SweepPart

_PAGE = "report/report.html"


class ReportFiles(SweepPart):
    """The report of one sweep."""

    @property
    def folder(self) -> Path:
        """The report's folder.

        Raises:
            StoreError: the store is not in a folder.
        """
        return self._storage.path("report")

    def location(self, name: str) -> str:
        """Return the path or URI of a file of the report."""
        return self._storage.locate(f"report/{name}")

    def is_written(self) -> bool:
        """Return whether the report exists."""
        return self._storage.exists(_PAGE)

    def read(self) -> str | None:
        """Return the HTML page; None before it is written.

        Raises:
            StoreError: it cannot be read.
        """
        try:
            return self._storage.read(_PAGE).decode()
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise StoreError(f"{self._storage.locate('report')}: the report cannot be read: {error}") from error

    @contextmanager
    def writing(self, name: str) -> Iterator[TextIO]:
        """Open a file of the report for writing; it appears atomically if the block ends without an exception.

        Raises:
            StoreError: it cannot be written.
        """
        self._check_lease()
        try:
            with self._storage.writing_text(f"report/{name}") as file:
                yield file
        except OSError as error:
            where = self._storage.locate("report")
            raise StoreError(
                f"{where}: the report cannot be written: {error.strerror}; "
                "'sweeps report ID --format html' prints it without writing to the store"
            ) from error

    def remove(self, name: str) -> None:
        """Remove a file of the report if it exists."""
        self._storage.remove(f"report/{name}")
