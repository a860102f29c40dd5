"""The JSON Schema says what sweeps.config does: whatever can be said in its words is refused by both, or by neither."""

import math
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from pydantic import BaseModel, ValidationError

from sweeps.config import axis, datasets, models, schedules, strict_yaml
from sweeps.config import schema as sweep_file
from sweeps.config.schema import SweepConfig
from sweeps.config.types import CUSTOM, SECRET
from sweeps.service.schedule.schema import SchedulesFile
from tests.fuzz.documents import NUMBERS, SCHEMA, TEXTS, damaged, grown
from tests.support.documents import SWEEP_FILES
from tests.support.hypothesis_profiles import examples

PLAIN = [
    *(number for number in NUMBERS if not isinstance(number, float) or math.isfinite(number)),
    *(text for text in TEXTS if text.isprintable() or text.isascii()),  # JSON has no lone surrogates
    *(None, True, False, [], {}, [1], ["a"], [True], {"value": 1}, {"values": []}, {"kind": "line"}, "1", 5.0, "all"),
]
CLASSES = {
    name: kind
    for module in (axis, datasets, models, schedules, sweep_file)
    for name, kind in vars(module).items()
    if isinstance(kind, type) and issubclass(kind, BaseModel)
}
PROPERTIES = [
    (model, name)
    for model, schema in [*SCHEMA["$defs"].items(), ("SweepConfig", SCHEMA)]
    for name in schema.get("properties", ())
]


def validator(model: str) -> Draft202012Validator:
    if model == "SweepConfig":
        return Draft202012Validator(SCHEMA)
    return Draft202012Validator({"$ref": f"#/$defs/{model}", "$defs": SCHEMA["$defs"]})


def refusals(model: str, document: Any) -> set[str] | None:
    """The kinds of pydantic's errors; None where it accepts the document."""
    try:
        CLASSES[model].model_validate(document)
    except ValidationError as error:
        return {problem["type"] for problem in error.errors()}
    return None


def assert_agreement(model: str, document: Any) -> None:
    refused, valid = refusals(model, document), validator(model).is_valid(document)
    if refused is None:
        assert valid, document
    elif refused - ({CUSTOM, SECRET, "too_short"} if CUSTOM in refused else {SECRET}):
        # A schema cannot say those; and a list counts as too short where its entries are wrong.
        assert not valid, (document, refused)


def bounds(schema: Any) -> list[float]:
    """Every bound that a schema names, and what lies on either side of it."""
    if isinstance(schema, list):
        return [n for part in schema for n in bounds(part)]
    if not isinstance(schema, dict):
        return []
    named = [schema[key] for key in ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum") if key in schema]
    near = [n for b in named for n in (b, b - 1, b + 1, math.nextafter(b, -math.inf), math.nextafter(b, math.inf))]
    return near + [n for part in schema.values() for n in bounds(part)]


def test_the_schema_is_one_and_has_no_words_of_its_own() -> None:
    Draft202012Validator.check_schema(SCHEMA)
    known = {*Draft202012Validator.VALIDATORS, "title", "description", "default", "discriminator", "$defs", "format"}

    def unknown(schema: Any) -> set[str]:
        if isinstance(schema, list):
            return set().union(*map(unknown, schema))
        if not isinstance(schema, dict):
            return set()
        inner = [part for key in ("properties", "$defs") for part in schema.get(key, {}).values()]
        rest = [part for key, part in schema.items() if key not in ("properties", "$defs", "default", "discriminator")]
        return (schema.keys() - known).union(*map(unknown, [*inner, *rest]))

    assert unknown(SCHEMA) == set()


@pytest.mark.parametrize("schema", [SCHEMA, SchedulesFile.model_json_schema()], ids=["sweep", "schedules"])
def test_every_key_is_described(schema: dict[str, Any]) -> None:
    models = [("", schema), *schema["$defs"].items()]
    keys = {f"{model}.{key}": part for model, each in models for key, part in each.get("properties", {}).items()}
    assert len(keys) > 15
    assert [key for key, part in keys.items() if not part.get("description", "").strip()] == []


@pytest.mark.parametrize("path", SWEEP_FILES, ids=lambda path: path.stem)
def test_shipped_files_are_valid(path: Any) -> None:
    validator("SweepConfig").validate(strict_yaml.read(path.read_text(), str(path)))


@pytest.mark.parametrize(("model", "name"), PROPERTIES, ids=[f"{model}.{name}" for model, name in PROPERTIES])
def test_every_key_has_the_bounds_and_the_type_that_are_enforced(model: str, name: str) -> None:
    schema = SCHEMA if model == "SweepConfig" else SCHEMA["$defs"][model]
    document = grown(schema, Random(0))
    assert_agreement(model, document)
    for value in [*PLAIN, *bounds(schema["properties"][name])]:
        for given_value in (value, [value], {"lr": value}, {"lr": {"value": value}}):
            assert_agreement(model, document | {name: given_value})


@examples(100, 2_000)
@given(st.integers(0, 100_000), st.lists(st.tuples(st.sampled_from(("replace", "delete", "add", "rename", "move")),
       st.floats(0, 1, exclude_max=True), st.sampled_from(PLAIN), st.sampled_from(TEXTS)), max_size=2))  # fmt: skip
def test_whole_files_agree(seed: int, faults: list[tuple[str, float, Any, str]]) -> None:
    document = grown(SCHEMA, Random(seed))
    for fault in faults:
        document = damaged(document, *fault)
    assert_agreement(SweepConfig.__name__, document)
