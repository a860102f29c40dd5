"""Theoretical predictions for a sweep before it runs: each trial's growth, the stable share, and axes to extend."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sgdcore.batches import steps_per_epoch
from sgdcore.stability import Kind, growth_kind, predict
from sweeps.config.schema import BATCH_SIZE, FOLD, HYPERPARAMETERS, REPEATS
from sweeps.search.base import FloatArray
from sweeps.search.draws import Draws, valid
from sweeps.search.product import Product

if TYPE_CHECKING:
    from sweeps.planning.plan import Plan, Trials
    from sweeps.planning.prepared import PreparedSweep

_MAX_WORK = 10_000_000  # operations per trial, about 4 ms; more expensive predictions are skipped
_MAX_SWEEP_WORK = 200_000_000_000  # operations of all trials, about 80 s on one core; likewise
_FORECAST_WORK = 500_000_000  # operations of each half of a forecast, about 0.3 s
_MAX_SAMPLE = 10_000  # trials or settings in a forecast
_JUDGED = ("lr", "momentum", "dampening")
_MIN_VALUES = 3  # minimum length of an axis whose best value can be an interior one
_TIE = 1e-9


@dataclass(frozen=True)
class Edge:
    """An axis whose best predicted value is at one of its ends."""

    axis: str
    value: float
    end: str  # smallest or largest

    def __str__(self) -> str:
        """Return a line for the user."""
        return f"{self.axis}: the best predicted value, {self.value:g}, is the {self.end} of its axis: extend it"


@dataclass(frozen=True)
class Forecast:
    """The prediction for a plan, from a sample if the plan is large."""

    kind: Kind
    stable_share: float
    trials: int  # trials evaluated for the stable share
    best: dict[str, float]  # the setting with the smallest growth, and that growth
    settings: int  # settings evaluated for the best one
    settings_in_all: int
    edges: tuple[Edge, ...]


def prediction(prepared: PreparedSweep) -> str:
    """Return the kind of values in the column predicted_radius, or "none: ..." with the reason why it is null."""
    # Shard files hold these texts and verify() compares them, so that they must not change.
    if not prepared.task.is_quadratic:
        return "none: the theory is that of squared loss and models linear in their parameters"
    kind, operations = _kind(prepared), _operations(prepared)
    if operations > _MAX_WORK:
        return f"none: the {kind} would take {operations:,} operations a trial; at most {_MAX_WORK:,} are made"
    if operations * len(prepared.plan.stages[0]) > _MAX_SWEEP_WORK:
        return (
            f"none: the {kind} would take {operations:,} operations for each of {len(prepared.plan.stages[0]):,} trials"
        )
    return str(kind)


def predicted_radius(prepared: PreparedSweep, trials: Trials) -> FloatArray | None:
    """Return the (T,) growth per epoch of each trial (sgdcore.stability); None if :func:`prediction` is none."""
    return None if prediction(prepared).startswith("none") else _growth(prepared, _columns(trials))


def forecast(prepared: PreparedSweep) -> Forecast | None:
    """Return the prediction for a plan; None if the theory does not apply, or one trial would take too long.

    The stable share is that of at most 10,000 trials, evenly spread over the plan. The best setting has the smallest
    growth among at most 10,000 settings with the first seed; long axes are sampled at both ends, the values next to
    them, and evenly between. Only the smallest weight decay of the sweep is considered: more decay nearly always
    reduces growth but changes the target, so theory cannot choose the best decay.
    """
    operations = _operations(prepared)
    if not prepared.task.is_quadratic or operations > _MAX_WORK:
        return None
    limit = int(np.clip(_FORECAST_WORK // operations, 100, _MAX_SAMPLE))
    parts = [_columns(trials) for trials in _spread(prepared.plan, limit)]
    decisive = (*HYPERPARAMETERS, *prepared.plan.options.names, "seed")  # the columns that growth depends on
    sample = _growth(prepared, {name: np.concatenate([part[name] for part in parts]) for name in decisive})
    blocks = _settings(prepared.plan)
    drawn = any(isinstance(trials, Draws) for trials in prepared.plan.trial_sets)
    kept = _thinned(blocks, limit)
    rows = [valid(block.rows(np.arange(len(block)))) for block in kept] or parts  # of a table, the sample
    columns = {name: np.concatenate([part[name] for part in rows]) for name in decisive}
    growth = _growth(prepared, columns)
    best = int(np.argmin(np.nan_to_num(growth, nan=np.inf)))
    # If a whole range of values is best up to rounding, the axis need not be extended.
    tied = growth <= growth[best] * (1 + _TIE)
    return Forecast(
        kind=_kind(prepared),
        stable_share=float((sample[~np.isnan(sample)] < 1).mean()) if not np.isnan(sample).all() else math.nan,
        trials=int((~np.isnan(sample)).sum()),
        best={name: float(columns[name][best]) for name in HYPERPARAMETERS} | {"growth": float(growth[best])},
        settings=len(growth),
        settings_in_all=len(growth) if drawn else sum(map(len, blocks)) or len(prepared.plan),
        edges=tuple(edge for name in _JUDGED if blocks for edge in _edges(name, blocks, columns[name][tied])),
    )


def _kind(prepared: PreparedSweep) -> Kind:
    training = prepared.config.training
    scheduled = training.schedule is not None
    return growth_kind(prepared.task.samples, training.batch_size, training.order, scheduled=scheduled)


def _operations(prepared: PreparedSweep) -> int:
    """Return the operations per trial: per step P^2 entries, each with P multiply-adds and about 16 more."""
    parameters = len(prepared.plan.parameter_names) // prepared.task.model.outputs  # all outputs have the same maps
    one_epoch = steps_per_epoch(prepared.task.samples, prepared.config.training.batch_size)
    steps = one_epoch if _kind(prepared) is Kind.EPOCH_MAP else prepared.plan.steps
    return steps * parameters**2 * (parameters + 16)


def _columns(trials: Trials) -> dict[str, NDArray[Any]]:
    own = {name: getattr(trials.hyperparams, name) for name in HYPERPARAMETERS}
    return own | dict(trials.options) | {"seed": trials.seed}


def _growth(prepared: PreparedSweep, columns: dict[str, NDArray[Any]]) -> FloatArray:
    dividing = [name for name in (FOLD, BATCH_SIZE) if name in columns]
    if not dividing:
        return _growth_of_one(prepared, columns)
    growth = np.empty(len(columns["lr"]))
    distinct, which = np.unique(np.array([columns[name] for name in dividing]), axis=1, return_inverse=True)
    for index, values in enumerate(distinct.T.tolist()):
        part = prepared
        for name, value in zip(dividing, values, strict=True):
            part = part.with_fold(int(value)) if name == FOLD else part.with_batch_size(int(value))
        some = np.flatnonzero(which.reshape(-1) == index)
        growth[some] = _growth_of_one(part, {name: column[some] for name, column in columns.items()})
    return growth


def _growth_of_one(prepared: PreparedSweep, columns: dict[str, NDArray[Any]]) -> FloatArray:
    training = prepared.config.training
    return predict(
        prepared.task,
        prepared.plan.options.hyperparams(columns),
        epochs=training.epochs,
        batch_size=training.batch_size,
        order=training.order,
        seeds=columns["seed"].astype(np.int64),
        groups=training.groups,
    ).per_epoch


def _spread(plan: Plan, limit: int) -> Iterator[Trials]:
    """Yield all trials, or about a hundred short ranges of them, evenly spread over the plan."""
    if len(plan) <= limit:
        yield plan.trials(0, len(plan))
        return
    size = max(1, limit // 100)
    for start in np.unique(np.linspace(0, len(plan) - size, 100).astype(int)):
        yield plan.trials(int(start), int(start) + size)


def _settings(plan: Plan) -> list[Product]:
    """Return the plan's products with the first seed and fold, one start, the smallest weight decay and sorted axes."""
    products = [_product(trials) for trials in plan.trial_sets if isinstance(trials, Product | Draws)]
    decay = min((block["weight_decay"].min() for block in products), default=0.0)
    settings = []
    for block in products:
        if decay in block["weight_decay"]:
            one = {name: values[:1] for name, values in block.axes if name in REPEATS or name.startswith("init.")}
            one["weight_decay"] = np.array([decay])
            settings.append(Product(tuple((name, one.get(name, np.sort(v))) for name, v in block.axes)))
    return settings


def _product(trials: Product | Draws) -> Product:
    """Return a product of the values on each axis; of a continuous distribution, its quantiles."""
    return trials if isinstance(trials, Product) else Product(tuple((name, trials[name]) for name in trials.names))


def _thinned(blocks: list[Product], limit: int) -> list[Product]:
    """Return the products with fewer values per axis, so that there are at most about ``limit`` settings."""
    most = max((len(values) for block in blocks for _, values in block.axes), default=0)
    while most > 4 and sum(math.prod(min(len(v), most) for _, v in block.axes) for block in blocks) > limit:
        most = max(4, most * 9 // 10)
    return [Product(tuple((name, _some(values, most)) for name, values in block.axes)) for block in blocks]


def _some(values: FloatArray, most: int) -> FloatArray:
    """Return both ends, the values next to them, and evenly spread values between."""
    if len(values) <= most:
        return values
    between = np.linspace(1, len(values) - 2, most - 2).round().astype(int)
    return values[[0, *between.tolist(), -1]]


def _edges(name: str, blocks: list[Product], best: FloatArray) -> Iterator[Edge]:
    """Yield the end of an axis that has all of the best values, unless it is 0, which is a natural bound."""
    values = np.unique(np.concatenate([block[name] for block in blocks]))
    if len(values) < _MIN_VALUES:
        return
    for end, value in (("smallest", values[0]), ("largest", values[-1])):
        if (best == value).all() and value != 0:
            yield Edge(name, float(value), end)
