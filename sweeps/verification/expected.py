"""Check the ``expected`` cases of a sweep file against published figures or torch.optim.SGD."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sgdcore.trajectories import EarlyStops
from sweeps.config.schema import Expected
from sweeps.execution.training import train_trials
from sweeps.planning.prepared import PreparedSweep
from sweeps.results.expected_outcome import ExpectedOutcome
from sweeps.results.results import Results
from sweeps.verification.recorded_stops import stops_of

_SHOWN = (
    "trial",
    "lr",
    "momentum",
    "weight_decay",
    "verdict",
    "overshoot_percent",
    "overshoot_parameter",
    "peak_value",
)


def check_expected(prepared: PreparedSweep, results: Results) -> list[ExpectedOutcome]:
    """Return one outcome per stored trial of each expected case; cases without figures are trained by torch."""
    return [outcome for expected in results.config.expected for outcome in _check_case(prepared, results, expected)]


def _check_case(prepared: PreparedSweep, results: Results, expected: Expected) -> list[ExpectedOutcome]:
    columns = {key: _columns(results, key) for key in expected.where}
    where = {column: expected.where[key] for key, meant in columns.items() for column in meant}
    numbers = results.matching(where) if all(columns.values()) else []
    if not numbers:
        return [_outcome(expected)]
    stored = results.final(numbers)
    published = isinstance(expected.final, dict)
    reference = {} if published else _reference(prepared, results, numbers)
    inexact = [number for number in reference if not _same_bits(stored[number], reference[number])]
    precise = _reference(prepared, results, inexact, dtype="float64") if inexact else {}
    outcomes = []
    for row in results.rows(numbers).to_dict("records"):
        trial = int(row["trial"])
        final = dict(zip(results.parameters, map(float, stored[trial]), strict=True))
        if isinstance(expected.final, dict):
            matches, exact = _agrees(final, expected.final, expected.decimals), False
        else:
            exact = trial not in precise
            matches = exact or _as_close(stored[trial], reference[trial], precise[trial])
        outcomes.append(_outcome(expected, row, final, _target(prepared, row), (matches, exact)))
    return outcomes


def _outcome(
    expected: Expected,
    row: Mapping[Hashable, Any] | None = None,
    final: dict[str, float] | None = None,
    target: float | None = None,
    agreement: tuple[bool, bool] = (False, False),
) -> ExpectedOutcome:
    """Build an outcome; without ``row``, that of a case without a stored trial."""
    published = expected.final if isinstance(expected.final, dict) else None
    found = {name: _or_none(row[name]) if row else None for name in _SHOWN}
    return ExpectedOutcome(
        case=expected.case,
        final=final or {},
        published=published,
        reference=published is None,
        decimals=expected.decimals,
        matches=agreement[0],
        exact=agreement[1],
        target=target,
        **found,
    )


def _columns(results: Results, key: str) -> list[str]:
    """Return the columns that a key of ``where`` selects; init.weight selects all weights, as in the sweep file."""
    if key in (*results.settings, *results.repeats):
        return [key]
    return [c for c in results.starts if c.startswith(f"{key}.")]


def _agrees(found: Mapping[str, float], published: Mapping[str, float], decimals: int) -> bool:
    return all(
        name in found and round(found[name], decimals) == round(value, decimals) for name, value in published.items()
    )


def _reference(
    prepared: PreparedSweep, results: Results, numbers: Sequence[int], **changes: Any
) -> dict[int, NDArray[Any]]:
    """Return the final parameters of these trials, trained by torch.optim.SGD up to where the stored ones stopped."""
    found: dict[int, NDArray[Any]] = {}
    shards = prepared.plan.shards().holding(np.asarray(numbers, dtype=np.int64))  # of one batch size each
    runs = np.split(np.asarray(numbers), np.flatnonzero((np.diff(numbers) != 1) | (np.diff(shards) != 0)) + 1)
    for run in runs:
        trials = prepared.plan.trials(int(run[0]), int(run[-1]) + 1)
        stops = _stops(prepared.at(trials), results, run.tolist())
        trained = train_trials(prepared, trials, kernel="reference", early_stopping=stops, **changes)
        found |= dict(zip(run.tolist(), trained.params, strict=True))
    return found


def _stops(prepared: PreparedSweep, results: Results, numbers: Sequence[int]) -> EarlyStops | None:
    """Return where the stored trials stopped early; None without early stopping."""
    if prepared.early_stopping is None:
        return None
    name = prepared.config.stopping_loss
    curves = results.curves(numbers, [name])[name].to_numpy().reshape(len(numbers), -1)
    overflow = results.rows(numbers)["first_nonfinite_step"].to_numpy(np.float64, na_value=np.nan)
    return stops_of(prepared, curves, overflow)


def _same_bits(stored: NDArray[Any], reference: NDArray[Any]) -> bool:
    """Check that parameters are equal bit for bit; non-finite values are stored as NaN."""
    finite = np.isfinite(reference)
    return (
        stored.dtype == reference.dtype
        and bool((np.isfinite(stored) == finite).all())
        and stored[finite].tobytes() == reference[finite].tobytes()
    )


def _as_close(stored: NDArray[Any], reference: NDArray[Any], precise: NDArray[Any]) -> bool:
    """Check that the distance to a float64 run is at most twice torch's, or one rounding: sums can be reordered."""
    if not np.array_equal(np.isfinite(stored), np.isfinite(reference)):
        return False
    finite = np.isfinite(stored) & np.isfinite(precise)
    ours, theirs = np.abs(stored - precise)[finite], np.abs(reference - precise)[finite]
    rounding = np.finfo(stored.dtype).eps * np.abs(precise[finite]).max(initial=0.0)  # torch's can be less by chance
    return bool(ours.max(initial=0.0) <= 2 * max(theirs.max(initial=0.0), rounding))


def _target(prepared: PreparedSweep, row: Mapping[Hashable, Any]) -> float | None:
    """Return the minimiser's value of the parameter that overshot, or None."""
    parameter = _or_none(row["overshoot_parameter"])
    if parameter is None:
        return None
    trials = prepared.plan.trials(int(row["trial"]), int(row["trial"]) + 1)
    targets = train_trials(prepared, trials, epochs=0).state.target
    return float(targets[0, prepared.task.parameter_names.index(parameter)])


def _or_none(value: Any) -> Any:
    missing = value is None or (isinstance(value, float) and np.isnan(value))
    return None if missing else value
