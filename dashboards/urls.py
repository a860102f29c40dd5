"""URLs: addresses of the dashboard's pages, which contain their state, and of runs in the MLflow UI."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

from dashboards.store_cache import Row
from sweeps.tracking.names import TRIAL_ID


def query(search: str | None) -> dict[str, str]:
    """Return the values in a page's query string."""
    return dict(parse_qsl((search or "").removeprefix("?"), keep_blank_values=False))


def with_query(path: str, values: Mapping[str, str | None]) -> str:
    """Return an address with these values as its query string; empty ones are left out."""
    kept = {name: value for name, value in values.items() if value}
    return f"{path}?{urlencode(kept, safe=',:')}" if kept else path


def sweep_path(sweep_id: str) -> str:
    """Return the address of a sweep's page."""
    return f"/sweeps/{sweep_id}"


def report_path(sweep_id: str) -> str:
    """Return the address of a sweep's report."""
    return f"/sweeps/{sweep_id}/report.html"


class Mlflow:
    """The addresses of runs in the MLflow UI.

    Args:
        address: the address at which users open MLflow. By default, the tracking server that a sweep was logged to;
            there are no links if that was a database.
    """

    def __init__(self, address: str | None) -> None:
        """Store the address without connecting to it."""
        self._address = address.rstrip("/") if address else None

    def run(self, row: Row) -> str | None:
        """Return the address of the sweep's parent run; None if it is not logged yet or has no UI."""
        found = self._place(row)
        return f"{found[0]}/#/experiments/{found[1]['experiment_id']}/runs/{found[1]['run_id']}" if found else None

    def trial(self, row: Row, trial_id: str) -> str | None:
        """Return the address of the experiment's runs, filtered to one trial; it works for every writer's runs."""
        found = self._place(row)
        if found is None or not re.fullmatch(r"[0-9a-f]+", trial_id):
            return None
        wanted = quote(f"tags.`{TRIAL_ID}` = '{trial_id}'", safe="")
        return f"{found[0]}/#/experiments/{found[1]['experiment_id']}/runs?searchFilter={wanted}"

    def _place(self, row: Row) -> tuple[str, dict[str, Any]] | None:
        """Return the UI's address and the sweep's tracking record there."""
        logged = [place for place in row.places if place.get("run_id") and place.get("experiment_id")]
        if self._address is not None:
            there = [place for place in logged if _browsable(str(place["uri"])) == self._address]
            return (self._address, (there or logged)[0]) if logged else None
        for place in logged:
            if (address := _browsable(str(place["uri"]))) is not None:
                return address, place
        return None


def _browsable(uri: str) -> str | None:
    """Return a tracking server's address without user name and password."""
    parts = urlsplit(uri)
    if parts.scheme not in ("http", "https"):
        return None
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path.rstrip("/"), "", ""))
