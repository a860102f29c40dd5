"""A tracker in a process of its own, whose imports and calls do not hold up the rest of a sweep.

The process is forked, leaves interrupts to its parent, and dies with it. It inherits the lease of its parent's sweep,
so nobody else can take the sweep while the process can still write.
"""

from __future__ import annotations

import os
import pickle
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any, NoReturn, cast

from sweeps.errors import TrackingError
from sweeps.parent_death import die_with
from sweeps.tracking.base import BestModel, LoggedRun, ModelPlace, RunPage, TrackedSweep, Tracker

if TYPE_CHECKING:
    import pyarrow as pa

    from sweeps.config.schema import WriterName


@contextmanager
def in_own_process(tracker: Tracker) -> Iterator[ProcessTracker]:
    """Move an unused tracker into a child process, which ends with the block.

    Call it in the main thread: the child dies with the thread that forks it.
    """
    ours, theirs = Pipe()
    parent, before = os.getpid(), signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        if not (child := os.fork()):
            ours.close()
            _serve(tracker, theirs, parent)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    theirs.close()
    moved = ProcessTracker(tracker, ours, child)
    try:
        yield moved
    finally:
        moved.close()


class ProcessTracker:
    """A tracker in a child process; its errors are raised in this process.

    Args:
        tracker: the tracker as it was moved.
        requests: the connection to the child process.
        child: the id of the child process.
    """

    def __init__(self, tracker: Tracker, requests: Connection, child: int) -> None:
        """Connect to the child process; see :func:`in_own_process`."""
        self.uri, self.is_embedded, self.notices = tracker.uri, tracker.is_embedded, tracker.notices
        self._requests, self._child = requests, child
        self._ended: str | None = None  # how the child process ended
        # In a thread, an exchange is completed even if this process is interrupted while it waits for the answer.
        self._thread = ThreadPoolExecutor(1, "tracker")

    def check(self, writer: WriterName = "auto") -> None:
        """See Tracker."""
        self._call("check", writer)

    def check_readable(self) -> None:
        """See Tracker."""
        self._call("check_readable")

    def open(self, experiment: str, run_id: str | None = None) -> None:
        """See Tracker."""
        self._call("open", experiment, run_id)

    def start(self, sweep: TrackedSweep) -> dict[str, str]:
        """See Tracker."""
        return cast("dict[str, str]", self._call("start", sweep))

    def amend(self, sweep: TrackedSweep, chosen: dict[int, list[int]] | None) -> None:
        """See Tracker."""
        self._call("amend", sweep, chosen)

    def log_trials(self, table: pa.Table, steps: list[int]) -> Iterator[int]:
        """See Tracker."""
        self._call("log_trials", table, steps)
        try:
            while (count := self._call("next_count")) is not None:
                yield count
        finally:
            self._call("stop_logging")

    def end_trials(self) -> None:
        """See Tracker."""
        self._call("end_trials")

    def runs_of(self, trials: dict[str, int]) -> dict[str, str]:
        """See Tracker."""
        return cast("dict[str, str]", self._call("runs_of", trials))

    def log_model(self, model: BestModel, run_id: str | None, register: str | None) -> ModelPlace:
        """See Tracker."""
        return cast(ModelPlace, self._call("log_model", model, run_id, register))

    def finish(
        self,
        sweep: TrackedSweep,
        metrics: dict[str, float],
        tags: dict[str, str],
        complete: bool = True,
        page: RunPage | None = None,
    ) -> None:
        """See Tracker."""
        self._call("finish", sweep, metrics, tags, complete, page)

    def logged_runs(self, sweep: TrackedSweep) -> Iterator[LoggedRun]:
        """See Tracker."""
        yield from self._call("logged_runs", sweep)

    def deleted_trials(self, sweep: TrackedSweep) -> set[str]:
        """See Tracker."""
        return cast("set[str]", self._call("deleted_trials", sweep))

    def read_run(self, run_id: str) -> LoggedRun:
        """See Tracker."""
        return cast(LoggedRun, self._call("read_run", run_id))

    def hurry(self) -> None:
        """Do nothing: no call waits for a server."""

    def interrupt(self) -> None:
        """See Tracker."""
        self._call("interrupt")

    def close(self) -> None:
        """End the child process after the call that it executes."""
        self._thread.shutdown()
        self._requests.close()
        self._wait()

    def _call(self, name: str, *arguments: Any) -> Any:
        return self._thread.submit(self._exchange, name, arguments).result()

    def _exchange(self, name: str, arguments: tuple[Any, ...]) -> Any:
        """Let the child process call a method of the tracker; return its result or raise its error."""
        try:
            self._requests.send((name, arguments))
            answer = self._requests.recv_bytes()
        except (EOFError, OSError) as error:
            raise TrackingError(f"the process that logs to MLflow {self._wait()}") from error
        result, raised, self.notices = pickle.loads(answer)
        if raised is not None:
            raise raised
        return result

    def _wait(self) -> str:
        """Wait until the child process ends, and return how it did."""
        if self._ended is None:
            code = os.waitstatus_to_exitcode(os.waitpid(self._child, 0)[1])
            self._ended = f"was killed (signal {-code})" if code < 0 else f"has ended with exit code {code}"
        return self._ended


def _serve(tracker: Tracker, requests: Connection, parent: int) -> NoReturn:
    """Answer requests until the parent closes its end, then end this process; signals stay blocked."""
    try:
        die_with(parent)
        served = _Served(tracker)
        while True:
            name, arguments = requests.recv()
            requests.send_bytes(served.answer(name, arguments))
    except (EOFError, BrokenPipeError):
        os._exit(0)
    finally:
        os._exit(1)


class _Served:
    """The methods of a tracker by name; an iterator of counts is read one by one."""

    def __init__(self, tracker: Tracker) -> None:
        self._tracker = tracker
        self._counts: Iterator[int] = iter(())

    def answer(self, name: str, arguments: tuple[Any, ...]) -> bytes:
        """Call a method; return its result, its error and the tracker's notices, pickled."""
        result, error = None, None
        try:
            method = getattr(self, f"_{name}", None) or getattr(self._tracker, name)
            result = method(*arguments)
        except Exception as raised:  # noqa: BLE001 - raised by the parent
            error = _portable(raised)
        return pickle.dumps((result, error, self._tracker.notices))

    def _log_trials(self, table: pa.Table, steps: list[int]) -> None:
        self._counts = self._tracker.log_trials(table, steps)

    def _next_count(self) -> int | None:
        return next(self._counts, None)

    def _stop_logging(self) -> None:
        self._counts = iter(())

    def _logged_runs(self, sweep: TrackedSweep) -> list[LoggedRun]:
        return list(self._tracker.logged_runs(sweep))


def _portable(error: Exception) -> Exception:
    """Return the error, or one with the same text if it cannot be pickled."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # noqa: BLE001 - errors define what pickle calls
        return TrackingError(f"{type(error).__name__}: {error}")
    return error
