"""Catalogue: the pages' view of a store, cached in memory and read again when something has changed.

A sweep's results are identified by its stored shards and its state, so a finished sweep is read once. For a running
sweep, pages get the last results read, while a background thread reads the new ones.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from dashboards.background import Background
from dashboards.row_stats import RowStats, read_row_stats
from sweeps.errors import StoreError, SweepsError
from sweeps.report import figures
from sweeps.report.comparison_page import comparison_sections
from sweeps.report.headline import lead_sentences
from sweeps.report.html import Section
from sweeps.results.comparison import Comparison, compare_results
from sweeps.results.results import Results, load_results
from sweeps.results.stability_map import stability_panels
from sweeps.store.store import Store, SweepFiles

_MOST_RESULTS = 8  # sweeps with results in memory, a few megabytes each
_SETTLED_SECONDS = 20.0  # until a reported sweep is checked again
_SNAPSHOT_SECONDS = 1.0
_PATIENCE = 0.6  # seconds that the list of sweeps waits for figures before it is shown without them
_FIRST_PATIENCE = 2.0  # seconds that a sweep's page waits for its results
# Pause between reads of a running sweep: a multiple of the time to read it, and a maximum in seconds.
_REST, _MOST_REST = 3.0, 30.0

_log = logging.getLogger(__name__)

Key = tuple[frozenset[int], str]


@dataclass(frozen=True)
class Row:
    """A sweep in the list."""

    sweep_id: str
    name: str = ""
    state: str = "damaged"
    created: str = ""
    tags: dict[str, str] = field(default_factory=dict)
    trials: int = 0
    computed: int = 0
    logged: int | None = None  # None if unknown
    to_log: int | None = None
    failed_shards: int = 0
    is_reported: bool = False
    place: dict[str, Any] = field(default_factory=dict)  # where the sweep is logged
    places: tuple[dict[str, Any], ...] = ()
    stats: RowStats | None = None  # None until it is read
    key: Key = (frozenset(), "")


@dataclass(eq=False)
class Seen:
    """A sweep's results as last read."""

    key: Key
    results: Results
    seconds: float  # time to read them
    at: float  # when they were read, on the monotonic clock
    figures: dict[str, Any] = field(default_factory=dict)

    @property
    def version(self) -> str:
        """The version of the results, different after each read."""
        return f"{id(self):x}-{self.at:.6f}"

    def stability_map(self, view: str) -> Any:
        """Return the map as plotly's JSON-like dictionary; None if fewer than two parameters are swept."""
        if view not in self.figures:
            figure = figures.stability_map(self.results, view)
            self.figures[view] = None if figure is None else figure.to_plotly_json()
        return self.figures[view]


@dataclass(frozen=True, eq=False)
class Compared:
    """The comparison of sweeps with the first of them, as sections to show."""

    version: str  # the versions of all results
    comparison: Comparison
    sections: list[Section]


class Catalogue:
    """A cached, read-only view of a store for the pages. All methods are thread-safe."""

    def __init__(self, store: Store) -> None:
        """Create an empty cache; nothing is read yet."""
        self.store = store
        self._rows: dict[str, tuple[Row, float]] = {}
        self._taken: tuple[float, list[Row]] = (-1e9, [])
        self._stats: dict[str, tuple[Key, RowStats]] = {}
        self._seen: OrderedDict[str, Seen] = OrderedDict()
        self._problems: dict[str, tuple[Key, str]] = {}
        self._compared: Compared | None = None  # the last comparison
        self._lock = threading.RLock()
        self._quick, self._slow = Background("stats"), Background("results")

    def rows(self) -> list[Row]:
        """Return all sweeps, newest first; figures that are not read yet are added later."""
        with self._lock:
            taken, rows = self._taken
            if time.monotonic() - taken > _SNAPSHOT_SECONDS:
                rows = [self._row(files) for files in self.store.sweeps()]
                self._rows = {row.sweep_id: self._rows.get(row.sweep_id, (row, 0.0)) for row in rows}
                self._taken = time.monotonic(), rows
        wait(list(self._ask_stats(rows)), timeout=_PATIENCE)
        return [self._with_stats(row) for row in rows]

    def files(self, sweep_id: str) -> SweepFiles:
        """Return a sweep's files, by its id or an unambiguous prefix of it.

        Raises:
            StoreError: no sweep matches, or more than one.
        """
        return self.store.find(sweep_id)

    def row(self, files: SweepFiles) -> Row:
        """Return one sweep in its current state."""
        row = _row_of(files)
        wait(list(self._ask_stats([row])), timeout=_PATIENCE)
        return self._with_stats(row)

    def seen(self, row: Row) -> Seen | None:
        """Return a sweep's results as last read; None until they have been read once.

        Raises:
            StoreError: they cannot be read.
        """
        with self._lock:
            problem = self._problems.get(row.sweep_id)
            if problem is not None and problem[0] == row.key:
                raise StoreError(problem[1])
            seen = self._seen.get(row.sweep_id)
            if seen is not None:
                self._seen.move_to_end(row.sweep_id)
        if seen is None or (seen.key != row.key and self._may_read(seen, row)):
            reading = self._slow.ask(row.sweep_id, partial(self._read, row))
            wait([reading], timeout=_FIRST_PATIENCE if seen is None else _PATIENCE)
            if reading.done():
                return self.seen(row) if reading.exception() else reading.result()
        return seen

    def compared(self, ids: Sequence[str]) -> Compared | None:
        """Return the comparison of sweeps with the first of them; None until they have been read.

        Raises:
            StoreError: a sweep does not exist or cannot be read.
        """
        seen = [self.seen(self.row(self.files(sweep_id))) for sweep_id in ids]
        found = [each for each in seen if each is not None]
        if len(found) < len(seen):
            return None
        version = " ".join(each.version for each in found)
        if self._compared is None or self._compared.version != version:
            results = [each.results for each in found]
            reading = self._slow.ask(f"compared {version}", partial(self._compare, version, results))
            wait([reading], timeout=_FIRST_PATIENCE)
            return reading.result() if reading.done() else None
        return self._compared

    def _compare(self, version: str, results: Sequence[Results]) -> Compared:
        comparison = compare_results(results)
        self._compared = Compared(version, comparison, list(comparison_sections(comparison)))
        return self._compared

    def _row(self, files: SweepFiles) -> Row:
        known, at = self._rows.get(files.sweep_id, (None, 0.0))
        if known is not None and known.state == "reported" and time.monotonic() - at < _SETTLED_SECONDS:
            return known
        row = _row_of(files)
        self._rows[files.sweep_id] = row, time.monotonic()
        return row

    def _ask_stats(self, rows: Iterable[Row]) -> Iterable[Future[Any]]:
        for row in rows:
            known = self._stats.get(row.sweep_id)
            if row.key[0] and (known is None or known[0] != row.key):
                yield self._quick.ask(row.sweep_id, partial(self._read_stats, row, known))

    def _read_stats(self, row: Row, known: tuple[Key, RowStats] | None) -> None:
        # Verdicts of networks can change when the last trial is stored; the state then changes too.
        earlier = known[1] if known is not None and known[0][1] == row.state else None
        try:
            found = read_row_stats(self.store.find(row.sweep_id), row.key[0], earlier)
        except SweepsError as error:
            _log.warning("%s", error)  # the sweep's page reports it too
            found = RowStats("", row.key[0])
        self._stats[row.sweep_id] = row.key, found

    def _with_stats(self, row: Row) -> Row:
        known = self._stats.get(row.sweep_id)
        return replace(row, stats=known[1] if known is not None else None)

    def _may_read(self, seen: Seen, row: Row) -> bool:
        return row.state != "running" or time.monotonic() - seen.at > min(_REST * seen.seconds, _MOST_REST)

    def _read(self, row: Row) -> Seen:
        began = time.monotonic()
        try:
            results = load_results(self.store.find(row.sweep_id))
            if results.stored:
                lead_sentences(results)  # caches the counts of all trials
                stability_panels(results)  # caches their cells on the map
        except SweepsError as error:
            with self._lock:
                self._problems[row.sweep_id] = row.key, str(error)
            raise
        now = time.monotonic()
        key = frozenset(index for index, _, _ in results.shards), row.state
        seen = Seen(key, results, now - began, now)
        with self._lock:
            self._seen[row.sweep_id] = seen
            self._seen.move_to_end(row.sweep_id)
            while len(self._seen) > _MOST_RESULTS:
                self._seen.popitem(last=False)
        return seen


def _row_of(files: SweepFiles) -> Row:
    try:
        manifest, done, state = files.manifest(), files.shards.done(), files.state()
        places = files.tracking_record.places()
        progress = files.progress() if state == "running" else {}
        failed, computed, reported = len(files.shards.failures()), files.stored_trials(), files.report.is_written()
    except StoreError:
        return Row(files.sweep_id)
    place = places[0] if places else {}
    logged = progress.get("logged", place.get("logged"))
    return Row(
        sweep_id=files.sweep_id,
        name=str(manifest["name"]),
        state=state,
        created=str(manifest["created"]),
        tags={str(key): str(value) for key, value in manifest.get("tags", {}).items()},
        trials=files.planned().trials,
        computed=computed,
        logged=logged if isinstance(logged, int) else None,
        to_log=progress.get("to_log"),
        failed_shards=failed,
        is_reported=reported,
        place=place,
        places=tuple(places),
        key=(frozenset(done), state),
    )
