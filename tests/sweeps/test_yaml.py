import pytest

from sweeps import yaml
from sweeps.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3),
        ("1E5", 1e5),
        ("-2.5e+2", -250.0),
        (".5", 0.5),
        ("3", 3),
        ("true", True),
        ("text", "text"),
        ("'1e-3'", "1e-3"),
        ("1e-3 s", "1e-3 s"),
    ],
)
def test_scalars_are_what_users_mean(text: str, value: object) -> None:
    read = yaml.read(text, "file")
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\na: 2", "line 2, column 1: the key 'a' stands twice"),
        ("a: &x [1]\nb: *x", "aliases"),
        ("a: !!python/object:os.system {}", "line 1, column 4"),
        ("1: 2", "the key 1 is not text"),
        ("a: [1,", "line"),
        ("a: \x00", "not allowed"),
        ("a: 2020-13-45", "month must be in 1..12"),
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
        "date",
        "long number",
        "deep",
    ],
)
def test_refuses_in_one_line(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        yaml.read(text, "file.yaml")
    assert message in str(caught.value)
    assert str(caught.value).startswith("file.yaml: ")
    assert "\n" not in str(caught.value)
