"""The Typer application that commands register with; it turns errors into one line and an exit code."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from sweeps.cli.supervisor import leave
from sweeps.errors import ClusterLost, OutOfSpace, SweepsError, is_out_of_space
from sweeps.events import LOGGER
from sweeps.version import __version__


class LogFormat(StrEnum):
    """The format of logged events."""

    text = "text"
    json = "json"


class LogLevel(StrEnum):
    """The lowest level that is logged."""

    debug = "debug"
    info = "info"
    warning = "warning"
    error = "error"


class _Commands(TyperGroup):
    """A command group that prints expected errors without a traceback and exits with their exit code."""

    def invoke(self, ctx: typer.Context) -> Any:  # type: ignore[override]
        from sweeps.cli import terminal
        from sweeps.cli.outcome import interrupted

        try:
            return super().invoke(ctx)
        except (SweepsError, OSError) as error:
            full = is_out_of_space(error)
            if isinstance(error, SweepsError):
                terminal.complain(str(error))
            elif full:
                terminal.complain(f"{error.filename or 'a file'}: cannot be written: {error.strerror}; free some space")
            else:
                raise
            if isinstance(error, ClusterLost):
                leave(error.exit_code)  # a normal exit would make Ray wait for the cluster again
            code = OutOfSpace.exit_code if full or not isinstance(error, SweepsError) else error.exit_code
            raise typer.Exit(code) from error
        except KeyboardInterrupt as interrupt:
            terminal.note(interrupted(interrupt))
            raise typer.Exit(130) from interrupt


app = typer.Typer(
    name="sweeps",
    cls=_Commands,
    help="Run SGD hyperparameter sweeps, log them to MLflow and report the results.",
    epilog="Exit codes: 0 success; 2 invalid input, or another process holds the sweep; 3 some trials could not be "
    "run; 4 a check failed; 5 all trials are computed and reported, but some are not in MLflow yet (log them with "
    "'sweeps resume ID'); 6 the disk is full, or a quota is reached; 130 interrupted, finished trials are kept.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _say_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"sweeps {__version__}")
        raise typer.Exit


@app.callback()
def options(
    log_format: Annotated[
        LogFormat | None,
        typer.Option("--log-format", envvar="SWEEPS_LOG_FORMAT", help="Log events to standard error in this format."),
    ] = None,
    log_level: Annotated[
        LogLevel, typer.Option("--log-level", envvar="SWEEPS_LOG_LEVEL", help="Log events of this level and above.")
    ] = LogLevel.info,
    version: Annotated[
        bool, typer.Option("--version", callback=_say_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Apply the options that precede the command name."""
    LOGGER.propagate = False  # log only with --log-format, however Ray and MLflow configure the root logger
    if log_format is not None:
        from sweeps.service.monitoring import event_log

        event_log.set_up(log_format.value, log_level.value)
