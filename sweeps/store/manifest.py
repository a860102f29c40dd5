"""Validation of the JSON files of a sweep. Those of earlier versions have fewer keys."""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sweeps.errors import StoreError
from sweeps.store.backends.base import Storage
from sweeps.store.json_files import read_json
from sweeps.text.sanitize import visible

Count = Annotated[int, Field(ge=0, le=10**12)]
Milliseconds = Annotated[int, Field(ge=0, le=10**15)]  # since 1970
Size = Annotated[int, Field(ge=1, le=10**12)]


class StoredDocument(BaseModel):
    """A JSON file of a sweep. Keys that only other versions know are kept."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True)


M = TypeVar("M", bound=StoredDocument)


class DataFacts(StoredDocument):
    """The data set in a manifest."""

    digest: str
    samples: Count | None = None
    features: list[str] = []
    validation: Count = 0


class Manifest(StoredDocument):
    """The content of plan.json."""

    sweep_id: str
    name: str
    created: str
    started_ms: Milliseconds | None = None  # the same moment in milliseconds since 1970
    trials: Count
    shards: Count
    trials_per_shard: Size | None = None
    parts: list[Count] = []  # numbers of trials of one batch size each
    steps: Count | None = None
    swept: list[str] = []
    parameters: list[str] = []
    dropped: dict[str, Count] = {}
    merged: dict[str, Count] = {}
    module: str = ""
    context: str | None = None
    config: dict[str, str] | None = None  # digests of the values in config.yaml; see sweeps.config.digests
    results: str | None = None
    fresh: bool = False
    tags: dict[str, str] = {}
    data: DataFacts | None = None
    versions: dict[str, str] = {}


class StoredStage(StoredDocument):
    """A stage in stages.json."""

    trials: Count
    trials_per_shard: Size
    swept: list[str]
    dropped: dict[str, Count]
    merged: dict[str, Count]
    parts: list[Count] = []


class StagesFile(StoredDocument):
    """The content of stages.json."""

    stages: list[StoredStage]
    complete: bool


class WarmStartFile(StoredDocument):
    """The content of warm_start.json."""

    sweep_id: str
    columns: dict[str, list[float | None]]


class TrackingPlace(StoredDocument):
    """A place where a sweep is logged, in tracking.json."""

    uri: str
    complete: bool = False
    experiment_id: str | None = None
    run_id: str | None = None
    writer: str | None = None
    writer_reason: str | None = None
    logged: int | None = None
    error: str | None = None
    deleted: str | None = None


class TrackingFile(TrackingPlace):
    """The content of tracking.json: the sweep's own place, and the others."""

    elsewhere: list[TrackingPlace] = []


def read_document(storage: Storage, name: str, model: type[M]) -> tuple[dict[str, Any], M]:
    """Read and validate a JSON file; return its content as it is, and as a model.

    Raises:
        StoreError: it cannot be read, or is damaged.
    """
    document = read_json(storage, name)
    try:
        return document, model.model_validate(document)
    except ValidationError as error:
        problems = error.errors()
    where = f"{storage.locate(name)}: damaged"
    if missing := sorted(str(problem["loc"][-1]) for problem in problems if problem["type"] == "missing"):
        raise StoreError(f"{where}: no {', '.join(missing)}")
    key = ".".join(map(str, problems[0]["loc"]))
    raise StoreError(visible(f"{where}: {key}: {problems[0]['msg'].lower()}"))
