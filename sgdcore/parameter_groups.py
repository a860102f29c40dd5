"""Parameter groups: sets of parameters, named by patterns, that have hyperparameters of their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from math import prod

import numpy as np
from numpy.typing import NDArray

from sgdcore.errors import InvalidTraining
from sgdcore.tasks.task import Task

GroupPatterns = Mapping[str, Sequence[str]]


def group_of(task: Task, groups: GroupPatterns, used: Sequence[str]) -> NDArray[np.intp]:
    """Return the (P,) group of each parameter: 0 for none, then 1, 2, ... in the order of ``used``.

    Args:
        task: the task, whose model names the tensors, as torch's ``named_parameters()`` does.
        groups: patterns by group; ``*`` stands for any characters, as in ``*.bias``.
        used: the groups that have hyperparameters.

    Raises:
        InvalidTraining: a group is unknown, its patterns match nothing, or a tensor is in two groups. One pattern of
            several may match nothing: ``["bias", "*.bias"]`` fits linear models and networks.
    """
    shapes = task.parameter_shapes
    names = ", ".join(shapes)
    for name in used:
        if name not in groups:
            known = ", ".join(groups) or "none"
            raise InvalidTraining(f"there is no parameter group {name!r}: the groups are {known}")
    members: dict[str, str] = {}
    for name, patterns in groups.items():
        found = [tensor for tensor in shapes if any(fnmatchcase(tensor, pattern) for pattern in patterns)]
        if not found:
            given = " or ".join(map(repr, patterns))
            raise InvalidTraining(f"group {name}: no parameter matches {given}: they are {names}")
        for tensor in found:
            if tensor in members:
                raise InvalidTraining(f"the parameter {tensor} is in two groups, {members[tensor]} and {name}")
            members[tensor] = name
    number = {name: place for place, name in enumerate(used, 1)}
    by_tensor = [number.get(members.get(tensor, ""), 0) for tensor in shapes]
    return np.repeat(np.array(by_tensor, dtype=np.intp), [prod(shape) for shape in shapes.values()])
