"""Checks of a sweep file beyond its schema: the names and values of axes and of expected trials."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence

from sweeps.config.axis import Axis
from sweeps.config.messages import hint, key, listed, shown
from sweeps.config.schedules import numbers, schedule
from sweeps.config.schema import BATCH_SIZE, CLIPPING, HYPERPARAMETERS, SweepConfig, known_options
from sweeps.config.types import (
    LARGEST,
    MAX_COUNT,
)

_EDGE_AXES = ("lr", "momentum", "weight_decay", "dampening")
_INIT = re.compile(r"init\.\w+(\.\w+)*")


def parameter_problems(config: SweepConfig) -> Iterator[str]:
    """Yield a line for each invalid name or value of an axis or of an expected trial."""
    options = known_options(config.training)
    if config.method != "grid" and isinstance(config.parameters, list):
        yield f"parameters: given a list of mappings; method {config.method} takes one mapping"
    yield from _boundary_problems(config)
    for i, mapping in enumerate(config.mappings()):
        path = f"parameters[{i}]" if isinstance(config.parameters, list) else "parameters"
        for name, axis in mapping.items():
            if problem := _name_problem(name, (*HYPERPARAMETERS, *options)):
                yield f"{path}.{key(name)}: {problem}{_remedy(name)}"
            else:
                yield from _axis_problems(f"{path}.{key(name)}", name, axis, config)
    for i, expected in enumerate(config.expected):
        for name, value in expected.where.items():
            problem = _name_problem(name, (*HYPERPARAMETERS, *options, "seed"))
            if problem is None and (value is None or not math.isfinite(value)):
                problem = f"given {shown(value)}; must be a finite number"
            if problem:
                yield f"expected[{i}].where.{key(name)}: {problem}"


def _boundary_problems(config: SweepConfig) -> Iterator[str]:
    """Yield what is wrong with the axis that has a tolerance, or that there is none."""
    found = [name for mapping in config.mappings() for name, axis in mapping.items() if axis.tolerance is not None]
    if config.method != "boundary":
        yield from (f"parameters.{key(name)}.tolerance: only method boundary has a tolerance" for name in found)
        return
    if len(found) != 1:
        yield f"parameters: {len(found)} axes have a tolerance; method boundary needs one, such as lr"
    for name in found:
        if name not in _EDGE_AXES:
            yield f"parameters.{key(name)}.tolerance: edges are found along {listed(_EDGE_AXES)}"
    if config.training.early_stopping is not None:
        yield "training.early_stopping: method boundary needs the last losses of trials; leave it out"
    if config.early_terminate is not None:
        yield "early_terminate: method boundary needs the last losses of trials; leave it out"


def _name_problem(name: str, known: Sequence[str]) -> str | None:
    if name in known or _INIT.fullmatch(name):
        return None
    return f"unknown parameter{hint(name, [*known, 'init.weight', 'init.bias'])}"


def _remedy(name: str) -> str:
    """Return what the sweep file lacks for an axis of a schedule or of a parameter group."""
    first, _, rest = name.partition(".")
    if first == "schedule":
        return "; the numbers of training.schedule can be axes"
    return f"; define the group {key(rest)} in training.groups" if rest and first in HYPERPARAMETERS else ""


def _axis_problems(path: str, name: str, axis: Axis, config: SweepConfig) -> Iterator[str]:
    """Yield the problem of the first invalid value."""
    if not axis.is_listed and (problem := _distribution_problem(name, axis, config)):
        yield f"{path}: {problem}"
        return
    for i, value in enumerate(axis.named()):
        if problem := _value_problem(name, value, config):
            place = f"values[{i}]" if axis.values else "value" if axis.value is not None else ("min", "max")[i]
            yield f"{path}.{place}: given {shown(value)}; {problem}"
            return


def _distribution_problem(name: str, axis: Axis, config: SweepConfig) -> str | None:
    """Return why a parameter cannot have the values of a distribution."""
    if config.method in ("grid", "boundary"):
        needed = "value, values, or min, max and count"
        return f"method {config.method} needs {needed}; methods random and sobol draw from distributions"
    kind = axis.distribution_name
    if name == "nesterov":
        return "must have the values true and false"
    if name == BATCH_SIZE and axis.possible() is None:
        return f"distribution {kind} does not have whole numbers; use int_uniform, or q_uniform with a whole q"
    if kind in ("normal", "q_normal") and not name.startswith("init."):
        return f"a normal distribution has values below 0; use log_normal, or uniform for {name}"
    return None


def _value_problem(name: str, value: bool | float | None, config: SweepConfig) -> str | None:
    dtype = config.training.dtype
    if name.startswith("schedule."):
        return _schedule_problem(name, value, config)
    if value is None:
        return None if name in CLIPPING else "must be a number"
    if name == BATCH_SIZE:
        whole = not isinstance(value, bool) and float(value).is_integer() and 1 <= value <= MAX_COUNT
        return None if whole else "must be a whole number >= 1"
    if name == "nesterov":
        return None if isinstance(value, bool) else "must be true or false"
    if isinstance(value, bool):
        return "must be a number"
    if not math.isfinite(value):
        return "must be a finite number"
    if abs(value) > LARGEST[dtype]:
        return f"exceeds the largest {dtype} number, {LARGEST[dtype]:.4g}"
    if value < 0 and name.partition(".")[0] in ("lr", "momentum", "weight_decay"):
        return f"{name} must be >= 0"
    if value <= 0 and name in CLIPPING:
        return f"{name} must be > 0, or null for no limit"
    return None


def _schedule_problem(name: str, value: bool | float | None, config: SweepConfig) -> str | None:
    from sgdcore import InvalidHyperparams

    if value is None:
        return "must be a number"
    try:
        schedule(config.training.schedule, {numbers(config.training.schedule)[name]: value})
    except InvalidHyperparams as error:
        return str(error)
    return None
