"""Terminal output: messages, tables, JSON, and progress as bars on a terminal or plain lines elsewhere."""

from __future__ import annotations

import json
import logging
import math
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from rich.cells import cell_len
from rich.console import Console, JustifyMethod
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.table import Table
from rich.text import Text

from sweeps.text.sanitize import visible

if TYPE_CHECKING:
    import pandas as pd

out = Console(highlight=False, emoji=False, soft_wrap=not sys.stdout.isatty())
err = Console(stderr=True, highlight=False, emoji=False, soft_wrap=True)

VERDICT_STYLES = {
    "converged": "green",
    "converging": "cyan",
    "stalled": "yellow",
    "diverging": "magenta",
    "diverged": "red",
}
_LINE_SECONDS = 5.0
_GAP = 2  # between columns


def keep_output_for_json() -> None:
    """Print everything but JSON to standard error from here on."""
    out.file = sys.stderr


def say(text: str = "") -> None:
    """Print a line to standard output."""
    out.print(visible(text), markup=False)


def note(text: str) -> None:
    """Print a line to standard error."""
    err.print(visible(text), markup=False)


@contextmanager
def working(text: str) -> Iterator[None]:
    """Show in a terminal what is being done, until the end of the block."""
    with out.status(visible(text)) if out.is_terminal else nullcontext():
        yield


def show_compilations() -> None:
    """Show in a terminal when the engine compiles a kernel, which takes seconds."""
    if not err.is_terminal:
        return
    handler = logging.Handler()
    handler.emit = lambda record: note(record.getMessage())  # type: ignore[method-assign]
    engine = logging.getLogger("sgdcore")
    engine.addHandler(handler)
    engine.setLevel(logging.INFO)


def complain(text: str) -> None:
    """Print each line of an error message to standard error."""
    for line in text.split("\n"):
        err.print(Text.assemble(("error:", "red"), " ", visible(line)))


def show_table(frame: pd.DataFrame, title: str | None = None) -> None:
    """Print a DataFrame as a table, formatted as in the reports.

    In a terminal, headings are wrapped at spaces, and a table that is still too wide is printed in blocks of columns
    that each begin with the first: no word or number is broken. Elsewhere each row is a line.
    """
    from sweeps.text.formatting import formatted, is_numeric

    shown = formatted(frame)
    names = [visible(str(name)) for name in shown.columns]
    columns = [[visible(text) for text in shown[name]] for name in shown.columns]
    right = [is_numeric(frame[name]) for name in frame.columns]
    least = [max(map(cell_len, (*name.split(), *cells)), default=0) for name, cells in zip(names, columns, strict=True)]
    whole = [max(width, cell_len(name)) for width, name in zip(least, names, strict=True)]
    room = out.width if out.is_terminal else sum(whole) + _GAP * len(whole)
    wide = Console(file=out.file, highlight=False, emoji=False, width=room)
    for block in _blocks(least, room):
        table = Table(title=Text(title) if title else None, title_justify="left", header_style="bold", box=None)
        table.padding = (0, _GAP, 0, 0)
        spare = room - sum(least[i] + _GAP for i in block)
        for i in block:
            justify: JustifyMethod = "right" if right[i] else "left"
            more = max(0, min(spare, whole[i] - least[i]))
            spare -= more
            table.add_column(Text(names[i]), justify=justify, width=least[i] + more)
        for cells in zip(*(columns[i] for i in block), strict=True):
            table.add_row(*map(_coloured, cells))
        if out.is_terminal:
            out.print(table, crop=False)  # above the progress bars
        else:
            wide.print(table, crop=False)
        title = None


def _blocks(least: list[int], room: int) -> Iterator[list[int]]:
    """Yield the columns that fit side by side, by index; each block begins with the first column."""
    block: list[int] = []
    for i, width in enumerate(least):
        if len(block) > 1 and sum(least[j] + _GAP for j in block) + width + _GAP > room:
            yield block
            block = [0]
        block.append(i)
    yield block


def show_json(document: Any) -> None:
    """Print strict JSON, with null for numbers that are not finite."""
    print(json.dumps(_plain(document), indent=2, allow_nan=False, default=str))  # noqa: T201


def show_frame(frame: pd.DataFrame, as_json: bool, title: str | None = None) -> None:
    """Print a DataFrame as JSON records or as a table."""
    if as_json:
        show_json(frame.to_dict(orient="records"))
    else:
        show_table(frame, title)


def _coloured(text: str) -> Text:
    return Text(text, style=VERDICT_STYLES.get(text, ""))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if hasattr(value, "item") and not hasattr(value, "shape"):
        value = value.item()
    elif hasattr(value, "tolist"):
        return _plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def progress() -> BarProgress | LineProgress:
    """Return progress bars for a terminal, else plain progress lines."""
    return BarProgress() if out.is_terminal else LineProgress()


class BarProgress:
    """A progress display with two bars: trials computed and trials logged, with rates and the remaining time."""

    def __init__(self) -> None:
        """Create the bars; begin() shows them."""
        self._bars = Bars(
            TextColumn("{task.description:>9}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]:>12}"),
            TimeRemainingColumn(),
            console=out,
            transient=True,
        )
        self._tasks: dict[str, TaskID] = {}
        self._stored, self._training = 0, 0.0

    def begin(self, to_compute: int, to_log: int) -> None:
        """Show the bars."""
        for name, total in (("computed", to_compute), ("logged", to_log)):
            self._tasks[name] = self._bars.add_task(name, total=total, rate="", visible=total > 0)
        self._bars.start()

    def extend(self, to_compute: int, to_log: int) -> None:
        """Add to the totals."""
        for name, more in (("computed", to_compute), ("logged", to_log)):
            total = (self._bars.tasks[self._tasks[name]].total or 0) + more
            self._bars.update(self._tasks[name], total=total, visible=total > 0)

    def computed(self, trials: int) -> None:
        """Count trials that are now in the store."""
        self._stored += trials
        self.training(max(0.0, self._training - trials))

    def training(self, trials: float) -> None:
        """Move the bar of computed trials by what is done of the shards in flight."""
        self._training = trials
        self._set("computed", self._stored + trials)

    def failed(self, trials: int) -> None:
        """Ignore failures; the command reports them at its end."""

    def logged(self, trials: int) -> None:
        """Count trials that are now in MLflow."""
        self._set("logged", self._bars.tasks[self._tasks["logged"]].completed + trials)

    def _set(self, name: str, trials: float) -> None:
        task = self._tasks[name]
        self._bars.update(task, completed=trials)
        speed = self._bars.tasks[task].speed
        self._bars.update(task, rate=_rate(speed) if speed else "")

    def end(self) -> None:
        """Remove the bars."""
        self._bars.stop()


class LineProgress:
    """A progress display with plain lines, one every few seconds and one at the end."""

    def __init__(self) -> None:
        """Create the counters; begin() starts the clock."""
        self._totals = {"computed": 0, "logged": 0}
        self._done = {"computed": 0, "logged": 0}
        self._at = {"computed": 0.0, "logged": 0.0}  # time of the last change
        self._training = 0.0
        self._began = self._printed = 0.0
        self._last = ""  # the line printed last

    def begin(self, to_compute: int, to_log: int) -> None:
        """Start the clock."""
        self._totals = {"computed": to_compute, "logged": to_log}
        self._began = self._printed = time.monotonic()

    def extend(self, to_compute: int, to_log: int) -> None:
        """Add to the totals."""
        self._totals["computed"] += to_compute
        self._totals["logged"] += to_log

    def computed(self, trials: int) -> None:
        """Count trials that are now in the store."""
        self._training = max(0.0, self._training - trials)
        self._advance("computed", trials)

    def training(self, trials: float) -> None:
        """Count what is done of the shards in flight."""
        if trials != self._training:
            self._training = trials
            self._advance("computed", 0)

    def failed(self, trials: int) -> None:
        """Ignore failures; the command reports them at its end."""

    def logged(self, trials: int) -> None:
        """Count trials that are now in MLflow."""
        self._advance("logged", trials)

    def _advance(self, name: str, trials: int) -> None:
        self._done[name] += trials
        self._at[name] = time.monotonic()
        if self._at[name] - self._printed >= _LINE_SECONDS:
            self._printed = self._at[name]
            self._line()

    def _line(self) -> None:
        parts = []
        for name, total in self._totals.items():
            if not total:
                continue
            seconds, more = max(self._at[name] - self._began, 1e-9), self._training if name == "computed" else 0.0
            done = self._done[name] + more
            rate = _rate(done / seconds) if done else "waiting"
            left = f", {seconds / done * (total - done):,.0f} s left" if 0 < done < total else ""
            training = f"{f'{more:,.1f}'.removesuffix('.0')} more in training, " if more else ""
            parts.append(f"{name} {self._done[name]:,} of {total:,} ({training}{rate}{left})")
        if (line := "; ".join(parts)) and line != self._last:
            self._last = line
            say(line)

    def end(self) -> None:
        """Print the last line."""
        self._training = 0.0
        self._line()


def _rate(speed: float) -> str:
    return f"{speed:,.0f}/s" if speed >= 10 else f"{speed:.2g}/s"
