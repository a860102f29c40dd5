"""The errors that users can cause or have to act on, with the exit codes of the command line.

    SweepsError                     1
    ├── InputError                  2   invalid input; nothing was written
    │   ├── ConfigError                 the sweep file: one line per problem
    │   ├── DataError                   the data set's file
    │   ├── StoreError                  the store: not writable, unknown or ambiguous sweep id, damaged file
    │   │   └── OutOfSpace          6   the disk is full, or a quota or a limit on files is reached
    │   ├── StoreUnavailable            the server of a shared store: unreachable, or it rejects the request
    │   ├── SweepHeld                   another process holds the sweep
    │   ├── TrackingError               the tracking server: unreachable, or it rejects the request
    │   └── ExecutorError               the Ray cluster: cannot be joined
    ├── ClusterLost                 3   the cluster was lost during the sweep
    ├── TrialsFailed                3   some trials could not be run
    ├── CheckFailed                 4   a check failed
    └── NotLogged                   5   all trials are computed, but not all are in MLflow

Diverging trials are results, not errors. An exception in a worker becomes part of the shard's result (see
sweeps.execution.worker).
"""

import errno
from collections.abc import Iterator

from sweeps.text.sanitize import visible

MAX_PROBLEMS = 50  # reported at once
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_SQLITE_FULL = 13


class SweepsError(Exception):
    """The base class of all errors; its message has one line per problem and is printed unchanged."""

    exit_code = 1


class InputError(SweepsError):
    """Invalid user input."""

    exit_code = 2


class ConfigError(InputError):
    """An invalid sweep file, with one line per problem: the key's path, what was given and what is allowed."""

    def __init__(self, where: str, problems: list[str]) -> None:
        """Report the first MAX_PROBLEMS problems of the file or option named ``where``."""
        self.problems = [visible(problem) for problem in problems[:MAX_PROBLEMS]]
        if len(problems) > MAX_PROBLEMS:
            self.problems.append(f"these are the first {MAX_PROBLEMS} problems; there are more")
        super().__init__("\n".join(f"{visible(where)}: {problem}" for problem in self.problems))


class DataError(InputError):
    """A data file that cannot be read, or that contains values that cannot be trained on."""

    def __init__(self, problem: str) -> None:
        """Escape control characters of the problem, so that it stays on one line."""
        super().__init__(visible(problem))


class StoreError(InputError):
    """A store that cannot be used, or that does not contain the requested item."""


class OutOfSpace(StoreError):
    """A full disk, or a quota or a limit on files that is reached; what is written is kept."""

    exit_code = 6


class StoreUnavailable(InputError):
    """A shared store whose server is unreachable or rejects the request; the state of its files is unknown."""


class SweepHeld(InputError):
    """A sweep that another process holds."""


class TrackingError(InputError):
    """A tracking server or database that is unreachable or rejects the request."""


class ExecutorError(InputError):
    """A Ray cluster that cannot be joined."""


class TrialsFailed(SweepsError):
    """Some trials could not be run; the others are in the store."""

    exit_code = 3


class ClusterLost(SweepsError):
    """The cluster was lost during the sweep; finished shards are in the store."""

    exit_code = 3


class CheckFailed(SweepsError):
    """A check failed: the results are not as expected."""

    exit_code = 4


class NotLogged(SweepsError):
    """All trials are computed and reported, but some are not in MLflow."""

    exit_code = 5


def is_out_of_space(error: BaseException) -> bool:
    """Return whether an error was caused by a full disk, a quota or a limit on files, however it was reported."""
    return any(
        (isinstance(cause, OSError) and cause.errno in _NO_ROOM)
        or getattr(cause, "sqlite_errorcode", None) == _SQLITE_FULL
        for cause in _causes(error)
    )


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and the errors that led to it."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
