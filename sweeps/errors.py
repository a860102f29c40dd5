"""Every error that a user can cause or has to act on, each with the command line's exit code.

    SweepsError                     1
    ├── InputError                  2   the user's input cannot be used; nothing was written
    │   ├── ConfigError                 the sweep file: one line a problem
    │   ├── DataError                   the data set's file
    │   ├── StoreError                  the store: not writable, unknown or ambiguous sweep id, damaged file
    │   ├── StoreUnavailable            the server of a shared store: out of reach, or it refuses
    │   ├── SweepHeld                   another process works on the sweep
    │   ├── TrackingError               the tracking URI cannot be reached or refuses
    │   └── ExecutorError               the Ray address cannot be joined
    ├── ClusterLost                 3   the cluster went away in mid-sweep
    ├── TrialsFailed                3   some trials could not be run
    ├── CheckFailed                 4   a check failed
    └── NotLogged                   5   all trials are computed, but not all are in MLflow

Diverging trials are results, not errors; a worker's exception is part of the shard's result (see sweeps.execution.worker).
"""

from sweeps.text.sanitize import visible

MAX_PROBLEMS = 50  # that are told at once


class SweepsError(Exception):
    """The root: its message is one line a problem and goes to the terminal as it is."""

    exit_code = 1


class InputError(SweepsError):
    """The user's input cannot be used."""

    exit_code = 2


class ConfigError(InputError):
    """The sweep file is wrong: one line a problem, each with the key's path, what was given and what is allowed."""

    def __init__(self, where: str, problems: list[str]) -> None:
        """Problems of the file or command named by ``where``; of very many the first are told."""
        self.problems = [visible(problem) for problem in problems[:MAX_PROBLEMS]]
        if len(problems) > MAX_PROBLEMS:
            self.problems.append(f"these are the first {MAX_PROBLEMS} problems; there are more")
        super().__init__("\n".join(f"{visible(where)}: {problem}" for problem in self.problems))


class DataError(InputError):
    """The data set's file cannot be read or holds what cannot be trained on."""

    def __init__(self, problem: str) -> None:
        """One line, whatever the file holds."""
        super().__init__(visible(problem))


class StoreError(InputError):
    """The store cannot be used, or does not hold what was asked for."""


class StoreUnavailable(InputError):
    """The server that keeps a shared store cannot be reached or refuses: of the files themselves that says nothing."""


class SweepHeld(InputError):
    """Another process works on the sweep."""


class TrackingError(InputError):
    """The tracking URI cannot be reached or refuses."""


class ExecutorError(InputError):
    """The cluster cannot be joined."""


class TrialsFailed(SweepsError):
    """Some trials could not be run; the rest is in the store."""

    exit_code = 3


class ClusterLost(SweepsError):
    """The cluster went away in mid-sweep; what was done is in the store."""

    exit_code = 3


class CheckFailed(SweepsError):
    """A check failed: what came out is not what was expected."""

    exit_code = 4


class NotLogged(SweepsError):
    """All trials are computed and reported, but not all are in MLflow."""

    exit_code = 5
