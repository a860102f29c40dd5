"""What an audit has checked, and the differences that it found."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import pyarrow as pa

from sweeps.config.schema import HYPERPARAMETERS
from sweeps.errors import StoreError
from sweeps.store.store import SweepFiles

_OUTCOME = {"verdict", "final_loss", "first_nonfinite_step", "final", "loss"}
_COLUMNS = {"trial", "trial_id", *HYPERPARAMETERS, "seed", *_OUTCOME}


@dataclass(frozen=True)
class Difference:
    """A difference between what is expected and what was found."""

    what: str
    where: str
    expected: str
    found: str

    def __str__(self) -> str:
        """Return the difference as one line."""
        return f"{self.what} ({self.where}): expected {self.expected}, found {self.found}"


@dataclass
class Audit:
    """The result of an audit: what was checked and what differs."""

    sweep_id: str
    trials: int = 0  # planned trials
    steps: int = 0  # steps per trial
    stored: int = 0  # stored trials that match the plan
    logged: int = 0  # trials with exactly one MLflow run that matches the store
    deleted: int = 0  # runs that a user deleted in MLflow, the parent included
    recomputed: int = 0  # trials recomputed for the sample
    curtailed: bool = False  # whether the sample was reduced because its trials take many steps
    exact: int = 0  # recomputed trials that are equal bit for bit
    verdicts: Counter[str] = field(default_factory=Counter)  # stored trials by verdict
    best: float | None = None  # best metric of the stored trials that did not diverge
    differences: list[Difference] = field(default_factory=list)


def readable_table(files: SweepFiles, index: int) -> pa.Table | None:
    """Return a shard's table, or None if the file is damaged."""
    try:
        table = files.shards.read(index)
    except StoreError:
        return None
    return table if set(table.column_names) >= _COLUMNS else None
