"""A search method of two stages for tests: a coarse grid, then points around its best trials; as a program, the command
line with this method in place of the grid."""

from __future__ import annotations

import numpy as np
import pyarrow.compute as pc

from sweeps.search import grid
from sweeps.search.axes import UNSET
from sweeps.search.base import History, SearchSpace, Stage
from sweeps.search.trial_table import TrialTable

BEST, FACTORS = 2, (0.5, 0.9, 1.0, 1.1)  # a factor of 1 repeats a trial, which the planner leaves out


class TwoStages:
    """A grid, and then new learning rates around those of its best trials."""

    packages = ()
    is_adaptive = True

    def next_stage(self, space: SearchSpace, history: History) -> Stage | None:
        if len(history) == 0:
            return Stage(tuple(grid.products(space)))
        if len(history) > 1:
            return None
        first = history[0]
        assert "verdict" not in first.column_names
        order = pc.sort_indices(first, [("final_loss", "ascending"), ("trial", "ascending")])
        best = first.take(order[:BEST])
        columns = {name: np.repeat(best[name].to_numpy().astype(np.float64), len(FACTORS)) for name in space.columns}
        for name in space.columns:
            if name.startswith("init.") and not any(name in mapping for mapping in space.mappings):
                columns[name] = np.full(len(columns["lr"]), UNSET)  # the history has the values that were drawn
        return Stage((TrialTable(columns | {"lr": columns["lr"] * np.tile(FACTORS, BEST)}),))


def main() -> None:
    grid.METHOD = TwoStages()  # type: ignore[assignment]
    from sweeps.cli import main as command_line

    command_line()


if __name__ == "__main__":
    main()
