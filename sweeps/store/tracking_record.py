"""The tracking record: where a sweep's runs are logged, and whether completely (tracking.json)."""

from __future__ import annotations

from typing import Any

from sweeps.store.json_files import write_json
from sweeps.store.manifest import TrackingFile, read_document
from sweeps.store.sweep_part import SweepPart

_FILE = "tracking.json"


class TrackingRecord(SweepPart):
    """The record of where one sweep is logged. A place is a mapping with its ``uri`` and whether it is ``complete``."""

    def first(self) -> dict[str, Any]:
        """Return the sweep's own place, where it was first logged; empty before it is logged."""
        return next(iter(self.places()), {})

    def at(self, uri: str) -> dict[str, Any]:
        """Return the place with this URI; empty if the sweep was never logged there."""
        return next((place for place in self.places() if place["uri"] == uri), {})

    def places(self) -> list[dict[str, Any]]:
        """Return all places where the sweep is logged, its own place first.

        Raises:
            StoreError: the record is damaged.
        """
        if not self._storage.exists(_FILE):
            return []
        own, _ = read_document(self._storage, _FILE, TrackingFile)
        elsewhere = own.pop("elsewhere", [])
        return [own, *elsewhere]

    def write(self, place: dict[str, Any]) -> None:
        """Add a place, or replace the one with the same URI; the first place ever written is the sweep's own."""
        self._write(list(({known["uri"]: known for known in self.places()} | {place["uri"]: place}).values()))

    def relocate(self, before: str, after: str) -> None:
        """Replace a place's URI after its MLflow has moved."""
        places = self.places()
        if any(place["uri"] == before for place in places):
            self._write([place | {"uri": after} if place["uri"] == before else place for place in places])

    def _write(self, places: list[dict[str, Any]]) -> None:
        own, *elsewhere = places
        self._check_lease()
        write_json(self._storage, _FILE, own | ({"elsewhere": elsewhere} if elsewhere else {}), indent=2)
