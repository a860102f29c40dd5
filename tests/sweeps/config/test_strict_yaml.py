import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweeps.config import strict_yaml
from sweeps.errors import ConfigError
from sweeps.text.sanitize import acts

TEXT = st.text(st.characters().filter(lambda c: not acts(c))) | st.sampled_from(
    ["1e3", "2026-01-01", "010", "~", "", "yes", "a: b", "1:30", ".5", "x\n y\n", " x", "=", "<<", "- x", "#", "1e3\n"]
)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3),
        ("1E5", 1e5),
        ("-2.5e+2", -250.0),
        (".5", 0.5),
        ("3", 3),
        ("true", True),
        ("~", None),
        ("2026-01-01", "2026-01-01"),  # no date
        ("1:30", "1:30"),  # no base 60
        ("0x1f", "0x1f"),
        ("<<", "<<"),  # no merge
        ("=", "="),
        ("text", "text"),
        ("'1e-3'", "1e-3"),
        ("1e-3 s", "1e-3 s"),
    ],
)
def test_scalars_are_what_users_mean(text: str, value: object) -> None:
    read = strict_yaml.read(text, "file")
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\na: 2", "line 2, column 1: the key 'a' is duplicated"),
        ("a: &x [1]\nb: *x", "aliases"),
        ("a: !!python/object:os.system {}", "line 1, column 4"),
        ("1: 2", "the key 1 is not text"),
        ("a: [1,", "line"),
        ("a: \x00", "not allowed"),
        ('a: "\\e[1m"', r"line 1, column 4: the character '\x1b' is not allowed"),
        ('a: "\\ud800"', r"line 1, column 4: the character '\ud800' is not allowed"),
        ('"\\n": 1\n"\\n": 2', r"line 2, column 1: the key '\n' is duplicated"),
        ("a: !!binary aGk=", "line 1, column 4: tags (!name) are not allowed"),
        ("? [1]\n: 2", "the key [1] is not text"),
        pytest.param(
            "a: [" + "1," * 100_000 + "]", "too long: at most 100,000 keys and values", marks=pytest.mark.slow
        ),
        ("a: " + "x" * 4_000_000, "too long: at most 4,000,000 characters"),
        ("a: " + "9" * 5000, "digit"),
        ("[" * 5000, "nested too deeply"),
    ],
    ids=[
        "duplicate key",
        "alias",
        "tag",
        "number as key",
        "syntax",
        "control character",
        "escaped control character",
        "lone surrogate",
        "duplicate key with a line break",
        "binary",
        "list as key",
        "many values",
        "much text",
        "long number",
        "deep",
    ],
)
def test_refuses_in_one_line(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        strict_yaml.read(text, "file.yaml")
    assert message in str(caught.value)
    assert str(caught.value).startswith("file.yaml: ")
    assert "\n" not in str(caught.value)


@given(st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3)))
def test_what_is_written_reads_back_the_same(value: object) -> None:
    assert strict_yaml.read(strict_yaml.write({"key": value}), "file") == {"key": value}
