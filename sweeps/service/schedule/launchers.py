"""Launchers, which run the sweep of a tick: as a Ray job, or in a local process that outlives the scheduler."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from sweeps.errors import StoreError
from sweeps.service.jobs.ray_jobs import Cluster, Job
from sweeps.service.jobs.submission import Submission
from sweeps.store.store import Store


@dataclass(frozen=True)
class LaunchStatus:
    """The status of a launched sweep; ``exit_code`` is None until it has ended."""

    exit_code: int | None = None
    note: str = ""


class Launcher(Protocol):
    """The interface of launchers. Starting a sweep that was started before has no effect."""

    def start(self, submission: Submission) -> None:
        """Start a sweep unless it was started before.

        Raises:
            SweepsError: it cannot be started.
        """

    def look(self, submission_id: str) -> LaunchStatus | None:
        """Return a sweep's status; None if the launcher does not know it and it must be started again."""

    def stop(self, submission_id: str) -> None:
        """Ask a sweep to stop."""


class ClusterLauncher:
    """A launcher that submits Ray jobs. Ray accepts each id only once, so every tick runs exactly once."""

    def __init__(self, cluster: Cluster) -> None:
        """Use this cluster's Jobs API."""
        self.cluster = cluster

    def start(self, submission: Submission) -> None:
        """Submit the job, once."""
        self.cluster.submit(submission, again=False)

    def look(self, submission_id: str) -> LaunchStatus | None:
        """Return the status of the newest attempt."""
        job = self._job(submission_id)
        if job is None:
            return None
        return LaunchStatus(job.exit_code, job.outcome if job.has_ended else "")

    def stop(self, submission_id: str) -> None:
        """Cancel the job."""
        if (job := self._job(submission_id)) is not None:
            self.cluster.cancel(job)

    def _job(self, submission_id: str) -> Job | None:
        attempts = [job for job in self.cluster.jobs() if job.submission_id == submission_id]
        return max(attempts, key=lambda job: job.attempt, default=None)


class LocalLauncher:
    """A launcher that runs ``sweeps run`` in local processes, each in its own session, so that they outlive it.

    A process writes its output to a log file in the store and keeps that file locked while it runs, so that any
    scheduler can see whether it runs. If a process ended without its exit code being read, ``sweeps run --id`` is
    started again: it computes what is missing or reports the outcome, with the same exit code.
    """

    def __init__(self, store: Store, folder: Path) -> None:
        """Run sweeps of this store, with ``folder`` as the working directory."""
        self.store, self.folder = store, folder
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, submission: Submission) -> None:
        """Start the process unless it is running."""
        log = self._log(submission.submission_id)
        try:
            log.parent.mkdir(parents=True, exist_ok=True)
            with log.open("ab") as output:
                fcntl.flock(output, fcntl.LOCK_EX | fcntl.LOCK_NB)
                config = log.with_suffix(".yaml")
                config.write_text(submission.config_yaml, encoding="utf-8")
                process = subprocess.Popen(
                    self._command(submission, config),
                    cwd=self.folder,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
                log.with_suffix(".pid").write_text(f"{process.pid}\n", encoding="utf-8")
        except BlockingIOError:
            return  # it is already running
        except OSError as error:
            raise StoreError(f"{log}: cannot be written: {error.strerror}") from error
        self._processes[submission.submission_id] = process

    def look(self, submission_id: str) -> LaunchStatus | None:
        """Return the status, with the exit code only if this launcher started the process."""
        if (process := self._processes.get(submission_id)) is not None:
            code = process.poll()
            if code is None:
                return LaunchStatus()
            del self._processes[submission_id]
            note = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
            return LaunchStatus(3 if code < 0 else code, f"{note}; see {self._log(submission_id)}")
        # Without a log the process runs on another machine, whose schedulers handle it.
        return LaunchStatus() if self._is_running(submission_id) or not self._log(submission_id).exists() else None

    def stop(self, submission_id: str) -> None:
        """Interrupt the process, with the effect of Ctrl-C."""
        if self._is_running(submission_id):
            pid = int(self._log(submission_id).with_suffix(".pid").read_text(encoding="utf-8"))
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)

    def _command(self, submission: Submission, config: Path) -> list[str]:
        command = [sys.executable, "-m", "sweeps.cli", "run", str(config), "--id", submission.sweep_id]
        command += ["--store", self.store.where]
        if submission.place.tracking_uri:
            command += ["--tracking-uri", submission.place.tracking_uri]
        for key, value in submission.tags.items():
            command += ["--tag", f"{key}={value}"]
        return command + (["--fresh"] if submission.fresh else [])

    def _is_running(self, submission_id: str) -> bool:
        try:
            with self._log(submission_id).open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            pass
        return False

    def _log(self, submission_id: str) -> Path:
        return self.store.schedules_folder / f"{submission_id}.log"
