"""Sweep files, right and nearly right: grown from the JSON Schema, so that a new key is tried without being named here,
then damaged in a place or two."""

import copy
import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from typing import Any

from hypothesis import strategies as st

from sweeps.config.schema import HYPERPARAMETERS, SweepConfig
from tests.support.documents import SWEEP_FILES

Schema = dict[str, Any]
SCHEMA: Schema = SweepConfig.model_json_schema()

NAMES = (*HYPERPARAMETERS, "init.weight", "init.bias")
PLACES = {  # words that only some texts are: what a file names outside itself
    "path": (
        "data.csv",
        "data.parquet",
        "none.csv",
        "broken.csv",
        "../data.csv",
        ".",
        "pipe",
        "/dev/zero",
        "~",
        "a\0b",
    ),
    "target": ("y", "x", "größe", "nothing"),
    "features": ("x", "größe", "y", "nothing"),
    "module": (
        *("tests.fuzz.modules:make", "math:sqrt", "math:pi", "nothing.here:make", "os.path:join"),
        *(
            "tests.fuzz.modules:leaves",
            "tests.fuzz.modules:fails",
            "tests.fuzz.leaving:make",
            "tests.fuzz.failing:make",
        ),
        *("../evil:make", "os:", ":x", "a b:c", "os;import:x"),
    ),
}
TEXTS = (
    *("a", "größe", "<b>bold</b>", "[bold]x[/bold]", "../../etc/passwd", "a|b", "=1+1", "'\"", "x" * 249, "x" * 251),
    *(
        "\x1b[31m",
        "a\nb",
        "\u202e",
        "\ud800",
        "\0",
        "",
        " ",
        "日本",
        "🙂",
        "weight",
        "torch.optim.SGD",
        "{{ 7 }}",
        "%s",
    ),
)
NUMBERS = (
    *(
        0,
        -0.0,
        1,
        -1,
        2,
        3,
        5,
        64,
        0.5,
        1e-3,
        0.9,
        -0.5,
        1e-320,
        1e38,
        1e39,
        1e300,
        -1e300,
        math.nan,
        math.inf,
        -math.inf,
    ),
    *(10**9, 10**9 + 1, 10**18, 10**30, -(10**18), 2**31, 2**53, 2**63, 2**64, 10**400, 1e18, 2.5),
)


@dataclass(frozen=True)
class Raw:
    """YAML as it is."""

    text: str


RAW = tuple(
    Raw(text)
    for text in (
        *(
            "!!python/object:os.system {}",
            "!!python/name:os.system",
            "!!binary aGk=",
            "!!set {a, b}",
            "!x y",
            "*anchor",
        ),
        *(
            "&anchor [1]",
            "2026-01-01",
            "0x" + "f" * 5000,
            "1" * 5000,
            "1:30:30",
            "1" + ":1" * 200 + ".0",
            "0b_",
            "1e400",
        ),
        *(
            "1e-3",
            "1E5",
            ".5",
            "~",
            "yes",
            "{<<: {a: 1}}",
            "{? [1, 2] : 3}",
            "{1: 2}",
            "{a: 1, a: 2}",
            "[" * 100,
            "{" * 40,
        ),
        *("'", '"', "]", "}", ": :", "- -", "@", "`", "%", "#", "|\n x", ">\n\tx", '"\\x00"', '"\\ud800"', "---\na: 1"),
        *("[" + "[], " * 30 + "]", "[" * 30 + "]" * 30),
    )
)
OTHERS = (None, True, False, [], {}, [[]], {"": ""}, {"kind": "line"}, [1, 2], {"value": 1}, "1")
VALUES = (*RAW, *TEXTS, *NUMBERS * 2, *OTHERS * 6)  # the fewer of a kind, the oftener each


@st.composite
def texts(draw: st.DrawFn) -> bytes:
    """Sweep files as bytes: most are documents with a fault or two, some are mistyped, cut or oddly encoded as well.

    A document is grown from a drawn number, with few draws to an example, so that ten thousand take a minute.
    """
    document = grown(SCHEMA, Random(draw(st.integers(0, 100_000))))
    for _ in range(draw(st.sampled_from((0, 0, 0, 1, 1, 1, 2)))):
        document = damaged(document, *(draw(part) for part in _FAULT))
    text = write(document)
    match draw(st.integers(0, 24)):
        case 24:
            return draw(st.binary(max_size=40))
        case 23:
            return text.encode(draw(st.sampled_from(("utf-16", "latin-1", "utf-8-sig", "cp500"))), "replace")
        case 22:
            return _mistyped(text, draw(_AT), "").encode("utf-8", "replace")
        case 20 | 21:
            text = _mistyped(text, draw(_AT), draw(_CHARACTER))
        case 18 | 19:
            text = _mistyped(draw(st.sampled_from(SHIPPED)), draw(_AT), draw(_CHARACTER))
    return text.encode("utf-8", "surrogatepass")


SHIPPED = tuple(path.read_text() for path in SWEEP_FILES)
_AT = st.integers(0, 9_999).map(lambda n: (n * 7_919 + 4_999) % 10_000 / 10_000)  # as likely anywhere as at the ends
_CHARACTER = st.sampled_from("\t\n\0\x1b:{}[],&*!|>-#%@`'\"\\ é\u2028")
BOMBS = tuple(
    text.encode()
    for text in (
        "a: &a [x, x]\n" + "".join(f"{c}: &{c} [*{p}, *{p}]\n" for p, c in zip("abcdefghi", "bcdefghij", strict=True)),
        "a: &a {b: *a}",
        "<<: &a {<<: *a}",
        "[" * 100_000,
        "{a: " * 10_000,
        "- " * 10_000,
        "? " * 10_000,
        "a: [" + "1, " * 200_000 + "]",
        "".join(f"k{i}: {i}\n" for i in range(60_000)),
        "name: " + "x" * 2_000_000,
        "\t",
        "---\n---\n",
        "%YAML 9.9\n---\n{}",
    )
)


def write(value: Any) -> str:
    """A value as YAML, in the flow style."""
    match value:
        case Raw():
            return value.text
        case dict():
            return "{" + ", ".join(f"{write(key)}: {write(part)}" for key, part in value.items()) + "}"
        case list():
            return f"[{', '.join(map(write, value))}]"
        case str():
            return json.dumps(value, ensure_ascii="\ud800" in value)
        case bool() | None:
            return json.dumps(value)
        case float() if not math.isfinite(value):
            return ".nan" if math.isnan(value) else ".inf" if value > 0 else "-.inf"
    return repr(value)


def grown(schema: Schema, random: Random, name: str = "") -> Any:
    """Something that the schema allows, most of it small; ``name`` is the key that it stands under."""
    if "$ref" in schema:
        return grown(SCHEMA["$defs"][schema["$ref"].rpartition("/")[2]], random, name)
    if "const" in schema or "enum" in schema:
        return random.choice(schema.get("enum", [schema.get("const")]))
    if choices := schema.get("oneOf", schema.get("anyOf")):
        return grown(random.choice([choice for choice in choices if choice != {"type": "null"}]), random, name)
    if schema.get("type") == "object":
        return _mapping(schema, random, name)
    if schema.get("type") == "array":
        most = min(schema.get("maxItems", 3), 3)
        return [grown(schema["items"], random, name) for _ in range(random.randint(schema.get("minItems", 0), most))]
    return _scalar(schema, random, name)


def _mapping(schema: Schema, random: Random, name: str) -> Any:
    properties = schema.get("properties")
    if properties is None:
        inner = schema.get("additionalProperties")
        if not isinstance(inner, dict):
            return {"width": random.choice((1, 0.5, "x", [1], {"a": 1}))}
        keys = ("weight", "bias") if name == "final" else random.sample(NAMES, random.randint(1, 4))
        return {key: grown(inner, random, key) for key in keys}
    if {"min", "max", "count"} <= properties.keys():
        return _axis(random, name)
    required = schema.get("required", ())
    # Optional keys are seldom there: each is one more that may clash with another.
    return {
        key: grown(part, random, key) for key, part in properties.items() if key in required or random.random() < 0.2
    }


def _axis(random: Random, name: str) -> Any:
    """One of the three forms that an axis has, which the schema does not tell apart."""
    values = (False, True) if name == "nesterov" else (0, 0.9, 0.1, 1e-3, 1)
    form = random.randrange(2 if name == "nesterov" else 3)
    if form == 0:
        return {"value": random.choice(values)}
    if form == 1:
        return {"values": random.choices(values, k=random.randint(1, 3))}
    spread = {"min": 1e-3, "max": random.choice((1e-3, 0.1, 1)), "count": random.choice((1, 2, 5, 100, 10_000))}
    return spread | random.choice(({}, {"scale": "log"}, {"scale": "linear"}))


def _scalar(schema: Schema, random: Random, name: str) -> Any:
    if name in PLACES:
        return random.choice(PLACES[name])
    if pattern := schema.get("pattern"):
        return random.choice(
            [text for text in ("auto", "cpu", "cuda:0", "all", "none", "top:3", "$HOME") if re.search(pattern, text)]
        )
    kind = schema.get("type")
    if kind == "string":
        return random.choice(("name", "größe", "<b>", "[bold]", "../x", "a b"))
    if kind == "boolean":
        return random.random() < 0.5
    if kind == ["boolean", "number"]:
        return random.choice((False, True) if name == "nesterov" else (0, 0.9, 0.1, 1e-3))
    low = schema.get("minimum", schema.get("exclusiveMinimum", 0))
    high = schema.get("maximum", schema.get("exclusiveMaximum", math.inf))
    small = [n for n in (1, 2, 3, 5, 0.5, 0.25, 1.5) if low <= n < high and (kind == "number" or n == int(n))]
    return random.choice([*small, schema.get("default", small[-1])])


_KEYS = tuple(key for part in SCHEMA["$defs"].values() for key in part.get("properties", ()))
_FAULT = (
    st.sampled_from(("replace", "replace", "replace", "delete", "rename", "add", "repeat", "move")),
    _AT,
    st.sampled_from(VALUES),
    st.sampled_from((*TEXTS, *_KEYS)),
)


def damaged(document: Any, what: str, at: float, value: Any, key: str) -> Any:
    """The document with something done to one of its places, ``at`` of the way through them."""
    holder = {"": document}
    places = list(_places(holder))
    container, place = places[int(at * len(places))]
    if what == "delete" and container is not holder:
        del container[place]
    elif what == "repeat" and isinstance(container, list):
        container.append(copy.deepcopy(container[place]))
    elif what == "rename" and isinstance(container, dict) and container is not holder:
        container[key] = container.pop(place)
    elif what == "add" and isinstance(container, dict) and container is not holder:
        container[key] = copy.deepcopy(value)  # which may be where another was added
    elif what == "move":
        source, other = places[int(at * 7919) % len(places)]
        container[place] = copy.deepcopy(source[other])
    else:
        container[place] = copy.deepcopy(value)
    return holder[""]


def _places(container: Any) -> Iterator[tuple[Any, Any]]:
    entries = container.items() if isinstance(container, dict) else enumerate(container)
    for place, part in list(entries):
        yield container, place
        if isinstance(part, dict | list):
            yield from _places(part)


def _mistyped(text: str, at: float, character: str) -> str:
    """One more character, one other, or, of none, the text cut there."""
    place = int(at * len(text))
    return text[:place] + (character + text[place + place % 2 :] if character else "")
