"""A client for Ray's Jobs API: submit a sweep once, list, follow and cancel jobs, and resubmit after a failure."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from sweeps.errors import ExecutorError, InputError
from sweeps.service.jobs.submission import Submission
from sweeps.store.store import SWEEP_ID
from sweeps.text.redact import redact_uri

PENDING, RUNNING, SUCCEEDED, FAILED, CANCELLED = "pending", "running", "succeeded", "failed", "cancelled"
ENDED = (SUCCEEDED, FAILED, CANCELLED)
_STATES = {"PENDING": PENDING, "RUNNING": RUNNING, "SUCCEEDED": SUCCEEDED, "FAILED": FAILED, "STOPPED": CANCELLED}
_OWN_CODES = (0, 2, 3, 4, 5, 6, 130)  # exit codes of the command line
_KEYS = tuple(f"sweeps.{key}" for key in ("submission_id", "attempt", "sweep_id", "name", "digest"))
_PROBE_SECONDS, _CALL_SECONDS = 5, 60
_LOOK_SECONDS = 1.0
_LOST_CONNECTIONS = 10  # consecutive failures before following ends with an error
_MAX_ATTEMPTS = 1000


@dataclass(frozen=True)
class Job:
    """One attempt of a submission, as reported by the cluster."""

    job_id: str
    submission_id: str  # the job id of the first attempt
    attempt: int
    sweep_id: str
    name: str
    digest: str
    state: str  # pending, running, succeeded, failed, cancelled
    code: int | None  # exit code of the job's process; None before its end, or if it never ran
    message: str
    started: datetime | None
    ended: datetime | None

    @property
    def has_ended(self) -> bool:
        """Whether the job has ended."""
        return self.state in ENDED

    @property
    def exit_code(self) -> int | None:
        """The command line's exit code for the job's outcome; None before its end."""
        if not self.has_ended:
            return None
        if self.state == CANCELLED:
            return 130
        return self.code if self.code in _OWN_CODES else 3

    @property
    def outcome(self) -> str:
        """The outcome in a few words, or the state before the job's end."""
        if self.state != FAILED:
            return self.state
        if self.code is None:
            return f"failed before it ran: {next(iter(self.message.splitlines()), '')[:300]}"
        hint = ": the command 'sweeps' is not installed on the cluster" if self.code == 127 else ""
        return f"failed, exit code {self.code}{hint}"


class Cluster:
    """A Ray cluster, accessed through its Jobs API.

    Requests carry the token of ``RAY_AUTH_TOKEN`` or ``RAY_AUTH_TOKEN_PATH`` if one of them is set.

    Args:
        address: the address of the head's dashboard, ``http://HOST:8265``.
    """

    def __init__(self, address: str) -> None:
        """Check the address without connecting.

        Raises:
            InputError: the address is not an HTTP address.
        """
        given = address if "://" in address else f"http://{address}"
        parts = urlsplit(given)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise InputError(f"--address {redact_uri(address)}: must be a Jobs API address, such as http://HOST:8265")
        self.address = given.rstrip("/")

    def submit(self, submission: Submission, again: bool = True) -> tuple[Job, bool]:
        """Submit a sweep once: return the existing job if the cluster has one that did not fail.

        Args:
            submission: the sweep.
            again: whether to resubmit a job that failed or was cancelled.

        Returns:
            The job, and whether it is new.

        Raises:
            InputError: the submission id belongs to another sweep.
            ExecutorError: the cluster cannot be reached or rejects the request.
        """
        attempts = [job for job in self.jobs() if job.submission_id == submission.submission_id]
        if attempts and not again:
            return attempts[-1], False
        if attempts and attempts[-1].digest != submission.digest:
            raise InputError(
                f"{submission.submission_id}: the cluster has a job with this id but another config or data; "
                "choose another --submission-id"
            )
        if attempts and attempts[-1].state not in (FAILED, CANCELLED):
            return attempts[-1], False
        for attempt in range(attempts[-1].attempt + 1 if attempts else 1, _MAX_ATTEMPTS):
            job_id = submission.submission_id if attempt == 1 else f"{submission.submission_id}-{attempt}"
            new = self._send(submission, job_id, attempt)
            job = self.look(job_id)
            if job is not None and job.submission_id == submission.submission_id:
                return job, new
        raise InputError(f"{submission.submission_id}: has already been submitted {_MAX_ATTEMPTS} times")

    def jobs(self) -> list[Job]:
        """Return the cluster's sweep jobs, oldest first.

        Raises:
            ExecutorError: the cluster cannot be reached or rejects the request.
        """
        with self._ray_errors():
            known = [_job(details) for details in self._client.list_jobs()]
        never = datetime.max.replace(tzinfo=UTC)
        return sorted((job for job in known if job), key=lambda job: (job.started or never, job.attempt))

    def look(self, job_id: str) -> Job | None:
        """Return the job with exactly this id; None if there is none."""
        return next((job for job in self.jobs() if job.job_id == job_id), None)

    def find(self, prefix: str) -> Job:
        """Return the job whose id starts with ``prefix``; a submission id selects its newest attempt.

        Raises:
            InputError: no job matches, or more than one.
        """
        jobs = self.jobs()
        newest = {job.submission_id: job for job in sorted(jobs, key=lambda job: job.attempt)}
        if prefix in newest:
            return newest[prefix]
        if exact := [job for job in jobs if job.job_id == prefix]:
            return exact[0]
        matches = [job for submission_id, job in newest.items() if submission_id.startswith(prefix)]
        matches = matches or [job for job in jobs if job.job_id.startswith(prefix)]
        if len(matches) == 1:
            return matches[0]
        if matches:
            names = ", ".join(sorted(job.job_id for job in matches)[:10])
            raise InputError(f"{prefix!r}: matches more than one job: {names}")
        raise InputError(f"{prefix!r}: no such job at {self}; list jobs with 'sweeps jobs'")

    def logs(self, job: Job) -> str:
        """Return the job's output so far."""
        with self._ray_errors():
            return str(self._client.get_job_logs(job.job_id))

    def follow(self, job: Job, write: Callable[[str], object]) -> Job:
        """Write a job's output from its start to its end, and reconnect if the connection is lost.

        Returns:
            The ended job.

        Raises:
            ExecutorError: the connection is lost repeatedly, or the cluster no longer knows the job.
        """
        seen, lost = _Seen(write), 0
        while True:
            try:
                with self._ray_errors():
                    asyncio.run(self._tail(job.job_id, seen))
            except ExecutorError:
                lost += 1
                if lost > _LOST_CONNECTIONS:
                    raise
            now = self.look(job.job_id)
            if now is None:
                raise ExecutorError(f"{self}: no longer has job {job.job_id}")
            if now.has_ended:
                seen.restart()
                seen(self.logs(now))
                return now
            time.sleep(_LOOK_SECONDS)

    def cancel(self, job: Job) -> bool:
        """Ask a job to stop. Return whether it was still running. Its results are kept."""
        with self._ray_errors():
            return bool(self._client.stop_job(job.job_id))

    async def _tail(self, job_id: str, seen: _Seen) -> None:
        seen.restart()
        async with aclosing(self._client.tail_job_logs(job_id)) as chunks:
            async for chunk in chunks:
                seen(chunk)

    def _send(self, submission: Submission, job_id: str, attempt: int) -> bool:
        """Submit one attempt. Return whether the job is new; Ray accepts each id only once."""
        with tempfile.TemporaryDirectory(prefix="sweeps-job-") as folder, self._ray_errors():
            submission.write(Path(folder))
            try:
                self._client.submit_job(
                    entrypoint=submission.entrypoint,
                    submission_id=job_id,
                    runtime_env={"working_dir": folder},
                    metadata=_metadata(submission, attempt),
                )
                return True
            except RuntimeError as error:
                if "already exists" not in str(error):
                    raise
        return False

    @cached_property
    def _client(self) -> Any:
        """Ray's client, to be used inside :meth:`_ray_errors`."""
        self._probe()
        from ray.dashboard.modules.job import sdk

        for name in (sdk.__name__, "ray.dashboard.modules.dashboard_sdk"):
            logging.getLogger(name).setLevel(logging.ERROR)

        class Client(sdk.JobSubmissionClient):  # type: ignore[misc, unused-ignore]
            def _do_request(self, method: str, endpoint: str, **options: Any) -> Any:
                # Ray's client has no timeout and would wait forever for a server that never answers.
                return super()._do_request(method, endpoint, timeout=_CALL_SECONDS, **options)

        with _address_as_given():
            return Client(self.address)

    def _probe(self) -> None:
        parts = urlsplit(self.address)
        try:
            port = parts.port or (443 if parts.scheme == "https" else 80)
            socket.create_connection((parts.hostname or "", port), timeout=_PROBE_SECONDS).close()
        except (OSError, ValueError) as error:
            raise ExecutorError(f"{self}: the cluster cannot be reached: {error}") from error

    @contextmanager
    def _ray_errors(self) -> Iterator[None]:
        """Convert errors of Ray's client into ExecutorError with a one-line message."""
        if "RAY_AUTH_TOKEN" in os.environ or "RAY_AUTH_TOKEN_PATH" in os.environ:
            os.environ.setdefault("RAY_AUTH_MODE", "token")  # Ray sends the token in this mode only
        from aiohttp import ClientError
        from ray.exceptions import AuthenticationError
        from requests.exceptions import RequestException

        try:
            yield
        except AuthenticationError as error:
            reason = "it requires a token" if "required" in str(error) else "the token is wrong"
            raise ExecutorError(
                f"{self}: the cluster rejects the request: {reason}; set RAY_AUTH_TOKEN_PATH to the token's file"
            ) from error
        except (RequestException, ClientError, RuntimeError, OSError) as error:
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            message = redact_uri(lines[-1] if lines else type(error).__name__)[:300]
            raise ExecutorError(f"{self}: {message}") from error

    def __str__(self) -> str:
        """Return the address without passwords."""
        return redact_uri(self.address)


class _Seen:
    """A writer that skips what it has already written when a text is read again from its start."""

    def __init__(self, write: Callable[[str], object]) -> None:
        self._write, self._written, self._skip = write, 0, 0

    def restart(self) -> None:
        """Expect the text to start over."""
        self._skip = self._written

    def __call__(self, text: str) -> None:
        skipped = min(self._skip, len(text))
        self._skip -= skipped
        if rest := text[skipped:]:
            self._write(rest)
            self._written += len(rest)


def _metadata(submission: Submission, attempt: int) -> dict[str, str]:
    """Return the metadata that the cluster stores with a job. All users of the cluster can read it."""
    return {
        "sweeps.submission_id": submission.submission_id,
        "sweeps.attempt": str(attempt),
        "sweeps.sweep_id": submission.sweep_id,
        "sweeps.name": submission.name,
        "sweeps.digest": submission.digest,
    }


def _job(details: Any) -> Job | None:
    """Return a sweep's job; None for other jobs, whatever their metadata contains."""
    facts = details.metadata or {}
    state = _STATES.get(details.status.value)
    if state is None or not details.submission_id or not all(_is_ours(facts.get(key)) for key in _KEYS):
        return None
    if not re.fullmatch(r"[1-9]\d{0,3}", facts["sweeps.attempt"]) or not SWEEP_ID.fullmatch(facts["sweeps.sweep_id"]):
        return None
    return Job(
        job_id=details.submission_id,
        submission_id=facts["sweeps.submission_id"],
        attempt=int(facts["sweeps.attempt"]),
        sweep_id=facts["sweeps.sweep_id"],
        name=facts["sweeps.name"],
        digest=facts["sweeps.digest"],
        state=state,
        code=details.driver_exit_code,
        message=details.message or "",
        started=_time(details.start_time),
        ended=_time(details.end_time),
    )


def _is_ours(value: object) -> bool:
    """Return whether a metadata value can be one that _metadata() wrote."""
    return isinstance(value, str) and bool(value)


def _time(milliseconds: int | None) -> datetime | None:
    return datetime.fromtimestamp(milliseconds / 1000, UTC) if milliseconds else None


@contextmanager
def _address_as_given() -> Iterator[None]:
    """Hide the variables that Ray prefers to the address it is given."""
    names = ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS")
    hidden = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(hidden)
