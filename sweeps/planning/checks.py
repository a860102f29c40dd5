"""Checks of a sweep file that need the model: start values, expected parameters and the number of combinations."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Iterator, Mapping, Sequence

from sgdcore import InvalidHyperparams, InvalidTraining, Task
from sgdcore.parameter_groups import group_of
from sgdcore.recording import MAX_PATH_PARAMETERS
from sweeps.config.axis import Axis
from sweeps.config.messages import key, listed
from sweeps.config.schedules import schedule
from sweeps.config.schema import BATCH_SIZE, HYPERPARAMETERS, SweepConfig
from sweeps.errors import ConfigError
from sweeps.search.base import SearchSpace, start_parameters
from sweeps.search.draws import MAX_TABLE, is_listed
from sweeps.search.sobol import dimensions
from sweeps.search.sobol_points import MAX_DIMENSIONS

MAX_TRIALS = 10**9
_MAX_COMBINATIONS = 10**12  # before combinations are dropped or merged
_MAX_VALUES = 20_000_000  # of all axes together, which are kept in memory
_MAX_AXES = 100_000  # of all mappings together
_EXACT_POWER = 18  # power of ten up to which the number of combinations is computed exactly


def check_starts(config: SweepConfig, names: tuple[str, ...], starts: tuple[str, ...], where: str) -> None:
    """Check that every init.* axis names a parameter that can be given start values.

    Raises:
        ConfigError: an axis does not.
    """
    given = sorted({n for m in config.mappings() for n in m if n.startswith("init.")})
    if given and not starts:
        problem = (
            f"start values are allowed for networks of up to {MAX_PATH_PARAMETERS} parameters; "
            f"this one has {len(names):,}"
        )
        raise ConfigError(where, [f"parameters.{name}: {problem}" for name in given])
    unknown = [name for name in given if not start_parameters(name, starts)]
    if unknown:
        problem = f"the model's parameters are {listed(names)}"
        raise ConfigError(where, [f"parameters.{key(name)}: {problem}" for name in unknown])


def check_training(config: SweepConfig, task: Task, steps: int, where: str) -> None:
    """Check the schedule against the run's length, and the parameter groups against the model's parameters.

    Raises:
        ConfigError: a schedule is too short, or the patterns of a group match nothing or overlap with others.
    """
    training, problems = config.training, []
    if training.schedule is not None:
        made = schedule(training.schedule)
        rows = steps if made.interval == "step" else training.epochs
        try:
            made.lasting(rows)
        except InvalidHyperparams as error:
            problems.append(f"training.schedule: {error}")
    try:
        group_of(task, training.groups or {}, tuple(training.groups or ()))
    except InvalidTraining as error:
        problems.append(f"training.groups: {error}")
    if problems:
        raise ConfigError(where, problems)


def check_expected_names(config: SweepConfig, names: tuple[str, ...], starts: tuple[str, ...], where: str) -> None:
    """Check the names of expected trials and parameters, since a wrong one would fail the sweep only at its end.

    Raises:
        ConfigError: a name is unknown.
    """
    problems = []
    for i, expected in enumerate(config.expected):
        given = [n for n in expected.where if n.startswith("init.") and not start_parameters(n, starts)]
        problems += [f"expected[{i}].where.{key(n)}: the start values are those of {listed(starts)}" for n in given]
        final = expected.final if isinstance(expected.final, dict) else {}
        unknown = [n for n in final if n not in names]
        problems += [f"expected[{i}].final.{key(n)}: the model's parameters are {listed(names)}" for n in unknown]
    if problems:
        raise ConfigError(where, problems)


def check_combinations(config: SweepConfig, starts: tuple[str, ...], where: str) -> None:
    """Check the number of combinations from the lengths of the axes, before their values are computed.

    Raises:
        ConfigError: there are too many values, axes or combinations.
    """
    mappings = config.mappings()
    values = sum(len(axis) for mapping in mappings for axis in mapping.values())
    if values > _MAX_VALUES:
        raise ConfigError(where, [f"parameters: {values:,} values on all axes; at most {_MAX_VALUES:,} are allowed"])
    if (axes := len(mappings) * (len(HYPERPARAMETERS) + len(starts))) > _MAX_AXES:
        problem = f"parameters: {axes:,} axes in {len(mappings):,} mappings; at most {_MAX_AXES:,} are allowed"
        raise ConfigError(where, [problem])
    sizes = [[(len(axis), _meant(name, starts)) for name, axis in mapping.items()] for mapping in mappings]
    repeats = len(config.seeds) * max(1, config.task.dataset.folds)
    power = math.log10(repeats) + max(sum(times * math.log10(n) for n, times in size) for size in sizes)
    if power > _EXACT_POWER:
        number, shown = math.inf, f"about 1e{math.floor(power + 1e-9)}"
    else:
        number = repeats * sum(math.prod(n**times for n, times in size) for size in sizes)
        shown = f"{number:,}"
    if number > _MAX_COMBINATIONS:
        raise ConfigError(where, [f"parameters: {shown} combinations; at most {MAX_TRIALS:,} trials are allowed"])


def check_packages(method: str, packages: Sequence[str], where: str) -> None:
    """Check that the packages that a search method needs are installed.

    Raises:
        ConfigError: one is not.
    """
    if missing := [name for name in packages if importlib.util.find_spec(name) is None]:
        problem = f"method: {method} needs the package {missing[0]}: pip install 'sgd-sweeps[search]'"
        raise ConfigError(where, [problem])


def check_draws(space: SearchSpace, method: str, where: str) -> None:
    """Check that trials can be drawn from a search space with one mapping.

    Raises:
        ConfigError: they would be too many to list, torch.optim.SGD can reject them, or too many axes vary.
    """
    [mapping] = space.mappings
    problems = []
    if is_listed(space) and space.run_cap > MAX_TABLE:
        reason = "batch_size is an axis" if BATCH_SIZE in mapping else "no axis has a continuous distribution"
        problems.append(f"run_cap: given {space.run_cap:,}; at most {MAX_TABLE:,} trials are drawn where {reason}")
    elif not is_listed(space):
        problems += [f"parameters.{key(name)}: {problem}" for name, problem in _rejected(mapping)]
    if method == "sobol" and (drawn := len(dimensions(space))) > MAX_DIMENSIONS:
        problems.append(f"method: sobol draws up to {MAX_DIMENSIONS} values a trial, this sweep {drawn}; use random")
    if problems:
        raise ConfigError(where, problems)


def _rejected(mapping: Mapping[str, Axis]) -> Iterator[tuple[str, str]]:
    """Yield each axis with values that torch.optim.SGD always rejects beside the others', and the reason."""
    if "nesterov" not in mapping or not any(mapping["nesterov"].named()):
        return
    always = all(mapping["nesterov"].named())
    momentum = mapping.get("momentum")
    if always and (momentum is None or (momentum.points() == 0).any()):
        yield "nesterov", "nesterov needs a momentum: give parameters.momentum values above 0, or nesterov false too"
    for name, axis in mapping.items():
        first, _, group = name.partition(".")
        if first == "dampening" and axis.distribution_name == "constant" and any(axis.named()):
            yield name, "nesterov needs zero dampening: remove it, or set nesterov to false"
        if first == "momentum" and group and always and (axis.points() == 0).any():
            yield name, "nesterov needs a momentum: give values above 0, or nesterov false too"


def _meant(name: str, starts: tuple[str, ...]) -> int:
    """Return the number of axes of the product that an axis of the file expands to."""
    return max(1, len(start_parameters(name, starts))) if name.startswith("init.") else 1
