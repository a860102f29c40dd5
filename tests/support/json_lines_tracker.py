"""A tracker without MLflow: a file of JSON lines, one run each. It shows that the pipeline needs the protocol only."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from sweeps.errors import TrackingError
from sweeps.tracking.base import BestModel, LoggedRun, ModelPlace, RunPage, TrackedSweep
from sweeps.tracking.names import VERDICT
from sweeps.tracking.trial_runs import trial_runs

Facts = dict[str, Any]


class JsonLinesTracker:
    """Logs sweeps to a file; a later tracker of the same file goes on with it.

    Args:
        path: the file, one JSON object per run: ``id``, ``experiment``, ``sweep``, ``trial`` and facts.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._sweep: TrackedSweep | None = None
        self.notices: list[str] = []

    is_embedded = False

    @property
    def uri(self) -> str:
        return f"jsonl:{self.path}"

    def check(self, writer: str = "auto") -> None:
        if not self.path.parent.is_dir():
            raise TrackingError(f"{self.uri}: there is no such folder")

    def check_readable(self) -> None:
        self.check()

    def open(self, experiment: str, run_id: str | None = None) -> None:
        self.check()

    def start(self, sweep: TrackedSweep) -> dict[str, str]:
        self._sweep = sweep
        self._put({self._parent: self._facts(self._parent, "") | {"status": "RUNNING"}})
        return {
            "experiment_id": sweep.experiment,
            "run_id": self._parent,
            "writer": "json lines",
            "writer_reason": "there is no other",
        }

    def amend(self, sweep: TrackedSweep, chosen: dict[int, list[int]] | None) -> None:
        kept: dict[str, Facts] = {}
        runs = self._read()
        for index in sorted(sweep.files.shards.done()):
            for row in sweep.files.shards.read(
                index, ["trial", "trial_id", "verdict", "steps_to_tolerance"]
            ).to_pylist():
                run = runs.get(self._child(row["trial_id"]))
                if run is None or (chosen is not None and row["trial"] not in chosen.get(index, [])):
                    continue
                run["verdict"] = row["verdict"]
                run.pop("metric steps_to_tolerance", None)
                if row["steps_to_tolerance"] is not None:
                    run["metric steps_to_tolerance"] = float(row["steps_to_tolerance"])
                kept[run["id"]] = run
        self._write(
            {id_: run for id_, run in runs.items() if run["sweep"] != sweep.sweep_id or not run["trial"]} | kept
        )

    def log_trials(self, table: pa.Table, steps: list[int]) -> Iterator[int]:
        assert self._sweep is not None
        there, new = self._read(), {}
        points = self._sweep.config.tracking.points
        runs = trial_runs(table, steps, self._sweep.parameter_names, self._sweep.sweep_id, points)
        for row, trial_id in enumerate(runs.ids):
            if self._child(trial_id) in there:
                continue
            facts = {"status": "FINISHED", "verdict": runs.tags[VERDICT][row]}
            facts |= {f"param {key}": values[row] for key, values in runs.params.items()}
            facts |= {f"metric {key}": value for key, value, *_ in runs.metrics(row)}
            new[self._child(trial_id)] = self._facts(self._child(trial_id), trial_id) | facts
        self._put(new)
        yield len(runs)

    def end_trials(self) -> None:
        pass

    def runs_of(self, trials: dict[str, int]) -> dict[str, str]:
        there = self._read()
        return {trial_id: self._child(trial_id) for trial_id in trials if self._child(trial_id) in there}

    def log_model(self, model: BestModel, run_id: str | None, register: str | None) -> ModelPlace:
        assert self._sweep is not None
        run = run_id or self._parent
        self._put({run: self._read()[run] | {"model": model.settings}})
        return ModelPlace(model.trial_id, self._sweep.experiment)

    def finish(
        self,
        sweep: TrackedSweep,
        metrics: dict[str, float],
        tags: dict[str, str],
        complete: bool = True,
        page: RunPage | None = None,
    ) -> None:
        facts: Facts = {f"metric {key}": value for key, value in metrics.items()}
        facts["status"] = "FINISHED" if complete else "FAILED"
        self._put({self._parent: self._read()[self._parent] | facts})

    def logged_runs(self, sweep: TrackedSweep) -> Iterator[LoggedRun]:
        for run in self._read().values():
            if run["sweep"] == sweep.sweep_id:
                yield _logged(run)

    def deleted_trials(self, sweep: TrackedSweep) -> set[str]:
        return set()

    def read_run(self, run_id: str) -> LoggedRun:
        return _logged(self._read()[run_id])

    def hurry(self) -> None:
        pass

    def interrupt(self) -> None:
        if self._sweep is not None:
            self._put({self._parent: self._read()[self._parent] | {"status": "KILLED"}})

    @property
    def _parent(self) -> str:
        assert self._sweep is not None
        return f"{self._sweep.sweep_id}-parent"

    def _child(self, trial_id: str) -> str:
        assert self._sweep is not None
        return f"{self._sweep.sweep_id}-{trial_id}"

    def _facts(self, run_id: str, trial_id: str) -> Facts:
        assert self._sweep is not None
        return {"id": run_id, "experiment": self._sweep.experiment, "sweep": self._sweep.sweep_id, "trial": trial_id}

    def _read(self) -> dict[str, Facts]:
        if not self.path.exists():
            return {}
        return {run["id"]: run for run in map(json.loads, self.path.read_text(encoding="utf-8").splitlines())}

    def _put(self, runs: dict[str, Facts]) -> None:
        self._write(self._read() | runs)

    def _write(self, runs: dict[str, Facts]) -> None:
        piece = self.path.with_suffix(f".{os.getpid()}.new")
        piece.write_text("".join(json.dumps(run) + "\n" for run in runs.values()), encoding="utf-8")
        piece.rename(self.path)


def _logged(run: Facts) -> LoggedRun:
    about = ("id", "experiment", "sweep", "trial", "model")
    return LoggedRun(run["id"], run["trial"], {"verdict": ""} | {k: v for k, v in run.items() if k not in about})
