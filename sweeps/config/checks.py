"""Checks of a sweep file beyond its schema: names and values of axes, and of expected trials."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from sweeps.config.messages import hint, key, shown
from sweeps.config.types import (
    LARGEST,
)

if TYPE_CHECKING:
    pass
from sweeps.config.axis import Axis
from sweeps.config.schema import HYPERPARAMETERS, SweepConfig

_INIT = re.compile(r"init\.\w+(\.\w+)*")


def parameter_problems(config: SweepConfig) -> Iterator[str]:
    """What is wrong with the names and values of axes, and of the trials that are expected."""
    for i, mapping in enumerate(config.mappings()):
        path = f"parameters[{i}]" if isinstance(config.parameters, list) else "parameters"
        for name, axis in mapping.items():
            if problem := _name_problem(name, HYPERPARAMETERS):
                yield f"{path}.{key(name)}: {problem}"
            else:
                yield from _axis_problems(f"{path}.{key(name)}", name, axis, config.training.dtype)
    for i, expected in enumerate(config.expected):
        for name, value in expected.where.items():
            problem = _name_problem(name, (*HYPERPARAMETERS, "seed"))
            if problem is None and not math.isfinite(value):
                problem = f"given {shown(value)}; a finite number is needed"
            if problem:
                yield f"expected[{i}].where.{key(name)}: {problem}"


def _name_problem(name: str, known: Sequence[str]) -> str | None:
    if name in known or _INIT.fullmatch(name):
        return None
    return f"unknown parameter{hint(name, [*known, 'init.weight', 'init.bias'])}"


def _axis_problems(path: str, name: str, axis: Axis, dtype: str) -> Iterator[str]:
    """The first value that is wrong."""
    for i, value in enumerate(axis.named()):
        if problem := _value_problem(name, value, dtype):
            place = f"values[{i}]" if axis.values else "value" if axis.value is not None else ("min", "max")[i]
            yield f"{path}.{place}: given {shown(value)}; {problem}"
            return


def _value_problem(name: str, value: bool | float, dtype: str) -> str | None:
    if name == "nesterov":
        return None if isinstance(value, bool) else "true or false is needed"
    if isinstance(value, bool):
        return "a number is needed"
    if not math.isfinite(value):
        return "a finite number is needed"
    if abs(value) > LARGEST[dtype]:
        return f"{dtype} holds numbers up to {LARGEST[dtype]:.4g}"
    if value < 0 and name in ("lr", "momentum", "weight_decay"):
        return f"{name} must be >= 0"
    return None
