"""Helpers of commands: the executor stops while the outcome is reported."""

from threading import Event

import pytest

from sweeps.cli.options import stopping
from sweeps.errors import ExecutorError
from sweeps.execution.inline import InlineExecutor


class Stopping(InlineExecutor):
    """An executor that stops only once the outcome is reported."""

    def __init__(self) -> None:
        self.reported, self.is_stopped = Event(), False

    def stop(self) -> None:
        assert self.reported.wait(60)
        self.is_stopped = True


def test_an_executor_stops_while_the_outcome_is_reported() -> None:
    executor = Stopping()
    with stopping(executor):
        executor.reported.set()
    assert executor.is_stopped


def test_an_executor_that_cannot_stop_is_an_error() -> None:
    class Failing(InlineExecutor):
        def stop(self) -> None:
            raise ExecutorError("it runs on")

    with pytest.raises(ExecutorError, match="it runs on"), stopping(Failing()):
        pass
