"""The loader of sweep files: read, apply overrides, validate."""

from __future__ import annotations

import os
from itertools import islice
from pathlib import Path
from typing import Any

from pydantic import (
    ValidationError,
)

from sweeps.config import strict_yaml
from sweeps.config.checks import parameter_problems
from sweeps.config.datasets import FileData
from sweeps.config.messages import problem_lines
from sweeps.config.overrides import apply_override
from sweeps.config.schema import RECORDED_POINTS, SweepConfig
from sweeps.errors import MAX_PROBLEMS, ConfigError
from sweeps.text.regular_file import read_regular
from sweeps.text.sanitize import visible


def load(path: Path, overrides: list[str] | None = None) -> SweepConfig:
    """Read and validate a sweep file.

    Args:
        path: the sweep file; the path of its data file is relative to the sweep file's folder.
        overrides: KEY=VALUE, with dotted keys and YAML values.

    Raises:
        ConfigError: the file is invalid, with one line per problem.
    """
    return loads(read_text(path), str(path), path.parent, overrides)


def loads(
    text: str,
    where: str,
    folder: Path = Path(),
    overrides: list[str] | None = None,
    stored: bool = False,
) -> SweepConfig:
    """Validate the text of a sweep file that was read from ``where``; relative paths start at ``folder``.

    ``stored``: it is a stored sweep's; keys that are not set have the defaults of earlier versions.

    Raises:
        ConfigError: the text is invalid, with one line per problem.
    """
    document = strict_yaml.read(text, where)
    if not isinstance(document, dict):
        raise ConfigError(where, ["must be a mapping with the keys of a sweep"])
    for override in overrides or []:
        apply_override(document, override)
    return parse(document, where, folder, stored)


def parse(document: Any, where: str, folder: Path = Path(), stored: bool = False) -> SweepConfig:
    """Validate a document that was read from ``where``; arguments as of :func:`loads`.

    The config that is returned names its metric.

    Raises:
        ConfigError: the document is invalid, with one line per problem.
    """
    try:
        config = SweepConfig.model_validate(document)
    except ValidationError as error:
        raise ConfigError(where, problem_lines(error, SweepConfig)) from error
    problems = list(islice(parameter_problems(config), MAX_PROBLEMS + 1))
    if config.tracking.register and config.tracking.model == "none":
        problems.insert(0, "tracking.register: no model to register, because tracking.model is none; set it to best")
    if problems:
        raise ConfigError(where, problems)
    dataset = config.task.dataset
    if isinstance(dataset, FileData):
        path = os.path.realpath(folder / dataset.path)
        if path != visible(path):
            raise ConfigError(where, ["task.dataset.path: folder names must not contain control characters"])
        config = with_data(config, path=path)
    if stored and config.record.points is None:
        config = config.with_points(RECORDED_POINTS)
    if config.metric.name is None:
        # Earlier versions ranked by the training loss even with a validation set.
        config = config.ranked_by("final_loss" if stored else config.metric_name)
    return config


def with_data(config: SweepConfig, **options: Any) -> SweepConfig:
    """Return a copy of the config with other options of its data set, such as the path of the data file."""
    dataset = config.task.dataset.model_copy(update=options)
    return config.model_copy(update={"task": config.task.model_copy(update={"dataset": dataset})})


def read_text(path: Path) -> str:
    """Return the text of a YAML file, up to a bounded length.

    Raises:
        ConfigError: the file cannot be read.
    """
    try:
        return read_regular(path, 4 * strict_yaml.MAX_CHARACTERS).decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(str(path), ["cannot be read: not UTF-8 text"]) from error
    except OSError as error:
        raise ConfigError(str(path), [f"cannot be read: {error.strerror}"]) from error
    except ValueError as error:  # an invalid file name, e.g. with a null character
        raise ConfigError(str(path), [f"cannot be read: {error}"]) from error
