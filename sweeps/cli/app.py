"""The app: commands register here; a user's mistake is one line and exit code 2, never a traceback."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from sweeps.cli.supervisor import leave
from sweeps.errors import ClusterLost, SweepsError
from sweeps.events import LOGGER


class LogFormat(StrEnum):
    """How the events of a sweep's life are logged."""

    text = "text"
    json = "json"


class LogLevel(StrEnum):
    """From which level on."""

    debug = "debug"
    info = "info"
    warning = "warning"
    error = "error"


class _Commands(TyperGroup):
    """A user's mistake is one line and exit code 2, never a traceback."""

    def invoke(self, ctx: typer.Context) -> Any:  # type: ignore[override]
        from sweeps.cli import terminal
        from sweeps.cli.outcome import interrupted

        try:
            return super().invoke(ctx)
        except SweepsError as error:
            terminal.complain(str(error))
            if isinstance(error, ClusterLost):
                leave(error.exit_code)  # Ray would wait for the cluster once more
            raise typer.Exit(error.exit_code) from error
        except KeyboardInterrupt as interrupt:
            terminal.note(interrupted(interrupt))
            raise typer.Exit(130) from interrupt


app = typer.Typer(
    name="sweeps",
    cls=_Commands,
    help="Hyperparameter sweeps of SGD: thousands of exact trials at a time, tracked in MLflow, judged and reported.",
    epilog="Exit codes: 0 done; 2 wrong input, or another process holds the sweep; 3 some trials could not be run; "
    "4 a check failed; 5 all trials are computed and reported, but not all are in MLflow yet (sweeps resume ID logs "
    "them); 130 interrupted, what was done is kept.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@app.callback()
def options(
    log_format: Annotated[
        LogFormat | None,
        typer.Option("--log-format", envvar="SWEEPS_LOG_FORMAT", help="Log sweeps' events on standard error."),
    ] = None,
    log_level: Annotated[
        LogLevel, typer.Option("--log-level", envvar="SWEEPS_LOG_LEVEL", help="From which level on.")
    ] = LogLevel.info,
) -> None:
    """Options of all commands, before the command's name."""
    LOGGER.propagate = False  # without --log-format nothing is logged, however Ray and MLflow configure the root logger
    if log_format is not None:
        from sweeps.service.monitoring import event_log

        event_log.set_up(log_format.value, log_level.value)
