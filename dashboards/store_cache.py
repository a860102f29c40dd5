"""Catalogue: what the pages know of a store, kept in memory and read anew where something has changed.

A sweep's results are known by its stored shards and its state: a finished sweep is read once. Of one that runs, pages
get what was read last, while what has come since is being read in the background.
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
from sweeps.results.comparison import Comparison
from sweeps.results.results import Results, load_results
from sweeps.results.stability_map import stability_panels
from sweeps.results.trial_matching import match
from sweeps.store.store import Store, SweepFiles

_MOST_RESULTS = 8  # sweeps whose results are in memory, a few megabytes each
_SETTLED_SECONDS = 20.0  # after which a reported sweep is looked at again
_SNAPSHOT_SECONDS = 1.0
_PATIENCE = 0.6  # seconds that a list of sweeps waits for figures before it shows what there is
_FIRST_PATIENCE = 2.0  # and a sweep's page for its results
_REST, _MOST_REST = 3.0, 30.0  # times as long as reading took, but at most seconds, a running sweep is left alone

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
    logged: int | None = None  # None where nothing is said of it
    to_log: int | None = None
    failed_shards: int = 0
    is_reported: bool = False
    place: dict[str, Any] = field(default_factory=dict)  # where it is logged
    places: tuple[dict[str, Any], ...] = ()
    glance: RowStats | None = None  # None as long as it is not read
    key: Key = (frozenset(), "")


@dataclass(eq=False)
class Seen:
    """A sweep's results as they were last read."""

    key: Key
    results: Results
    seconds: float  # that reading took
    at: float  # when it ended, on the monotonic clock
    figures: dict[str, Any] = field(default_factory=dict)

    @property
    def version(self) -> str:
        """Another one after each reading."""
        return f"{id(self):x}-{self.at:.6f}"

    def stability_map(self, view: str) -> Any:
        """The map as plotly's JSON-like dictionary; None where fewer than two parameters are swept."""
        if view not in self.figures:
            figure = figures.stability_map(self.results, view)
            self.figures[view] = None if figure is None else figure.to_plotly_json()
        return self.figures[view]


@dataclass(frozen=True, eq=False)
class Compared:
    """Sweeps held against the first of them, drawn."""

    version: str  # of all their results
    comparison: Comparison
    sections: list[Section]


class Catalogue:
    """Reads a store for the pages; it writes nothing, and all its methods may be called from any thread."""

    def __init__(self, store: Store) -> None:
        """Nothing is read yet."""
        self.store = store
        self._rows: dict[str, tuple[Row, float]] = {}
        self._taken: tuple[float, list[Row]] = (-1e9, [])
        self._glances: dict[str, tuple[Key, RowStats]] = {}
        self._seen: OrderedDict[str, Seen] = OrderedDict()
        self._problems: dict[str, tuple[Key, str]] = {}
        self._compared: Compared | None = None  # the last one
        self._lock = threading.RLock()
        self._quick, self._slow = Background("glances"), Background("results")

    def rows(self) -> list[Row]:
        """All sweeps, the newest first; figures that are not read yet follow."""
        with self._lock:
            taken, rows = self._taken
            if time.monotonic() - taken > _SNAPSHOT_SECONDS:
                rows = [self._row(files) for files in self.store.sweeps()]
                self._rows = {row.sweep_id: self._rows.get(row.sweep_id, (row, 0.0)) for row in rows}
                self._taken = time.monotonic(), rows
        wait(list(self._ask_glances(rows)), timeout=_PATIENCE)
        return [self._with_glance(row) for row in rows]

    def files(self, sweep_id: str) -> SweepFiles:
        """A sweep's files, by its id or the start of it.

        Raises:
            StoreError: there is none, or more than one.
        """
        return self.store.find(sweep_id)

    def row(self, files: SweepFiles) -> Row:
        """One sweep, as it stands now."""
        row = _row_of(files)
        wait(list(self._ask_glances([row])), timeout=_PATIENCE)
        return self._with_glance(row)

    def seen(self, row: Row) -> Seen | None:
        """A sweep's results as they were last read; None as long as they were not read at all.

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
        """Sweeps against the first of them; None as long as they are not read.

        Raises:
            StoreError: there is no such sweep, or it cannot be read.
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
        first, *others = results
        comparison = Comparison((first, *others), tuple(match(first, other) for other in others))
        self._compared = Compared(version, comparison, list(comparison_sections(comparison)))
        return self._compared

    def _row(self, files: SweepFiles) -> Row:
        known, at = self._rows.get(files.sweep_id, (None, 0.0))
        if known is not None and known.state == "reported" and time.monotonic() - at < _SETTLED_SECONDS:
            return known
        row = _row_of(files)
        self._rows[files.sweep_id] = row, time.monotonic()
        return row

    def _ask_glances(self, rows: Iterable[Row]) -> Iterable[Future[Any]]:
        for row in rows:
            known = self._glances.get(row.sweep_id)
            if row.key[0] and (known is None or known[0] != row.key):
                yield self._quick.ask(row.sweep_id, partial(self._glance, row, known))

    def _glance(self, row: Row, known: tuple[Key, RowStats] | None) -> None:
        # Verdicts of networks may change when all trials are there: then the state has changed too.
        earlier = known[1] if known is not None and known[0][1] == row.state else None
        try:
            found = read_row_stats(self.store.find(row.sweep_id), row.key[0], earlier)
        except SweepsError as error:
            _log.warning("%s", error)  # its page says so too
            found = RowStats("", row.key[0])
        self._glances[row.sweep_id] = row.key, found

    def _with_glance(self, row: Row) -> Row:
        known = self._glances.get(row.sweep_id)
        return replace(row, glance=known[1] if known is not None else None)

    def _may_read(self, seen: Seen, row: Row) -> bool:
        return row.state != "running" or time.monotonic() - seen.at > min(_REST * seen.seconds, _MOST_REST)

    def _read(self, row: Row) -> Seen:
        began = time.monotonic()
        try:
            results = load_results(self.store.find(row.sweep_id))
            if results.stored:
                lead_sentences(results)  # tallies all trials
                stability_panels(results)  # and places them on the map
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
