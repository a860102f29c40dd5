"""Identity: a sweep that is asked for by its id, so that asking twice makes one sweep; and the tags that it bears."""

from __future__ import annotations

import re

from sweeps.config import strict_yaml
from sweeps.config.messages import shown
from sweeps.errors import ConfigError, InputError
from sweeps.plan.prepared import PreparedSweep
from sweeps.store.store import SWEEP_ID, SweepFiles
from sweeps.text.redact import redact_uri
from sweeps.text.sanitize import acts

MAX_TAGS, MAX_TAG_VALUE = 50, 500
_KEY = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-/ ]{0,99}")  # what MLflow takes in a tag's name


def check_id(sweep_id: str) -> None:
    """Whether a sweep can have this id.

    Raises:
        InputError: it cannot.
    """
    if not SWEEP_ID.fullmatch(sweep_id):
        raise InputError(f"--id {shown(sweep_id)}: 1 to 32 hexadecimal digits are needed, in lower case")


def tags_of(given: list[str] | None) -> dict[str, str]:
    """Tags from KEY=VALUE; passwords in URIs are not kept.

    Raises:
        InputError: one is not of that form, or there are too many.
    """
    tags: dict[str, str] = {}
    for tag in given or []:
        key, equals, value = tag.partition("=")
        if not equals or not _KEY.fullmatch(key):
            raise InputError(f"--tag {shown(tag)}: KEY=VALUE is needed; a key has letters, digits and _ . - / only")
        if len(value) > MAX_TAG_VALUE or any(map(acts, value)):
            raise InputError(f"--tag {key}: at most {MAX_TAG_VALUE} characters, none of control, are needed as value")
        if key in tags:
            raise InputError(f"--tag {key}: stands twice")
        tags[key] = redact_uri(value)
    if len(tags) > MAX_TAGS:
        raise InputError(f"--tag: at most {MAX_TAGS} tags are allowed")
    return tags


def check_same(files: SweepFiles, prepared: PreparedSweep) -> None:
    """Whether a stored sweep is the one that this work would make: the same config and data.

    Raises:
        StoreError: its config or plan cannot be read.
        ConfigError: it is another one.
    """
    stored = strict_yaml.read(files.config_yaml(), files.config_location)
    asked = strict_yaml.read(prepared.config.to_yaml(), "config")
    differing = [key for key in {**stored, **asked} if stored.get(key) != asked.get(key)]
    if not differing and files.manifest().get("context") != prepared.plan.context:
        differing = ["the data"]
    if differing:
        raise ConfigError(
            f"sweep {files.sweep_id}",
            [f"the store holds it already, as another sweep: not the same are {', '.join(differing)}; take another id"],
        )


def is_whole(files: SweepFiles, tracking_uri: str) -> bool:
    """Whether nothing of a sweep is left to compute, to log there, or to report."""
    logged = any(place["uri"] == tracking_uri and place.get("complete") for place in files.tracking_record.places())
    planned = files.planned()
    computed = planned.is_complete and len(files.shards.done()) == planned.shards
    return logged and computed and files.report.is_written()
