"""Ids and tags of sweeps: checks that let a command with the same ``--id`` resume its sweep."""

from __future__ import annotations

import re

from sweeps.config import strict_yaml
from sweeps.config.messages import shown
from sweeps.errors import ConfigError, InputError
from sweeps.planning.prepared import PreparedSweep
from sweeps.store.store import SWEEP_ID, SweepFiles
from sweeps.text.redact import redact_uri
from sweeps.text.sanitize import acts

MAX_TAGS, MAX_TAG_VALUE = 50, 500
_KEY = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-/ ]{0,99}")  # allowed by MLflow in the name of a tag


def check_id(sweep_id: str) -> None:
    """Check that a sweep id is valid.

    Raises:
        InputError: it is not.
    """
    if not SWEEP_ID.fullmatch(sweep_id):
        raise InputError(f"--id {shown(sweep_id)}: must be 1 to 32 lower-case hexadecimal digits")


def tags_of(given: list[str] | None) -> dict[str, str]:
    """Parse tags given as KEY=VALUE, and redact passwords in URIs.

    Raises:
        InputError: a tag is invalid or duplicated, or there are too many.
    """
    tags: dict[str, str] = {}
    for tag in given or []:
        key, equals, value = tag.partition("=")
        if not equals or not _KEY.fullmatch(key):
            raise InputError(
                f"--tag {shown(tag)}: must be KEY=VALUE; keys can have letters, digits, spaces and _ . - /"
            )
        if len(value) > MAX_TAG_VALUE or any(map(acts, value)):
            raise InputError(
                f"--tag {key}: the value must have at most {MAX_TAG_VALUE} characters and no control characters"
            )
        if key in tags:
            raise InputError(f"--tag {key}: is given twice")
        tags[key] = redact_uri(value)
    if len(tags) > MAX_TAGS:
        raise InputError(f"--tag: at most {MAX_TAGS} tags are allowed")
    return tags


def check_same(files: SweepFiles, prepared: PreparedSweep) -> None:
    """Check that a stored sweep has the same config and data as a prepared one.

    Raises:
        StoreError: the stored config or plan cannot be read.
        ConfigError: the config or the data differs.
    """
    stored, given = (strict_yaml.read(config.to_yaml(), "config") for config in (files.config(), prepared.config))
    differing = [key for key in {**stored, **given} if stored.get(key) != given.get(key)]
    if not differing and files.manifest().get("context") != prepared.plan.context:
        differing = ["the data"]
    if differing:
        raise ConfigError(
            f"sweep {files.sweep_id}",
            [f"exists already with another config: {', '.join(differing)} differ; choose another id"],
        )


def is_whole(files: SweepFiles, tracking_uri: str) -> bool:
    """Return whether a sweep is computed, logged to this URI and reported completely."""
    logged = any(place["uri"] == tracking_uri and place.get("complete") for place in files.tracking_record.places())
    return logged and files.is_computed() and files.report.is_written()
