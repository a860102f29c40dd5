import math
from pathlib import Path

import pytest

from sweeps.config import strict_yaml
from sweeps.config.loader import load, loads, parse
from sweeps.config.schema import SweepConfig
from sweeps.errors import MAX_PROBLEMS, ConfigError
from sweeps.text.sanitize import visible
from tests.support.documents import ROOT, SWEEP_FILES, document


def problems(doc: object) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse(doc, "c.yaml")
    assert all(len(problem) < 300 and "\n" not in problem for problem in caught.value.problems)
    return caught.value.problems


def with_lr(axis: object) -> dict[str, object]:
    return document(parameters={"lr": axis})


BAD = {
    "unknown key": (document(epoch=3), "epoch: unknown key"),
    "unknown key with a hint": (document(parametres={}), "parametres: unknown key (did you mean parameters?)"),
    "unknown nested key": (document(training={"epochs": 1, "batch": 2}), "training.batch: unknown key"),
    "missing key": ({k: v for k, v in document().items() if k != "task"}, "task: missing"),
    "missing nested key": (document(training={}), "training.epochs: missing"),
    "text for a number": (
        document(training={"epochs": "many"}),
        "training.epochs: given 'many'; must be a whole number",
    ),
    "fraction for a count": (document(training={"epochs": 1.5}), "training.epochs: given 1.5; must be a whole number"),
    "bool for a number": (document(training={"epochs": True}), "training.epochs: given true; must be a whole number"),
    "zero epochs": (document(training={"epochs": 0}), "training.epochs: given 0; must be >= 1"),
    "bad order": (
        document(training={"epochs": 1, "order": "random"}),
        "training.order: given 'random'; allowed: sequential, shuffled",
    ),
    "device": (
        document(training={"epochs": 1, "device": "gpu"}),
        "training.device: given 'gpu'; must be auto, cpu, cuda or cuda:N",
    ),
    "no patience": (
        document(training={"epochs": 1, "early_stopping": {"patience": 0}}),
        "training.early_stopping.patience: given 0; must be >= 1",
    ),
    "early stopping without patience": (
        document(training={"epochs": 1, "early_stopping": {"min_delta": 1}}),
        "training.early_stopping.patience: missing",
    ),
    "negative min_delta": (
        document(training={"epochs": 1, "early_stopping": {"patience": 1, "min_delta": -1}}),
        "training.early_stopping.min_delta: given -1; must be >= 0",
    ),
    "a word for early stopping": (
        document(training={"epochs": 1, "early_stopping": {"patience": 1, "mode": "min"}}),
        "training.early_stopping.mode: unknown key; allowed: patience, min_delta",
    ),
    "no mapping": ([], "must be a mapping"),
    "dataset kind": (
        document(task={"dataset": {"kind": "mnist"}}),
        "task.dataset.kind: given 'mnist'; allowed: line, linear, polynomial, sine, csv, parquet, diabetes",
    ),
    "dataset without kind": (document(task={"dataset": {}}), "task.dataset.kind: missing"),
    "model kind": (
        document(task={"dataset": {"kind": "line"}, "model": {"kind": "cnn"}}),
        "task.model.kind: given 'cnn'; allowed: linear, polynomial",
    ),
    "dataset value": (
        document(task={"dataset": {"kind": "line", "x": []}}),
        "task.dataset.x: given []; must have at least one",
    ),
    "dataset key": (document(task={"dataset": {"kind": "line", "y": 1}}), "task.dataset.y: unknown key"),
    "the target as a feature": (
        document(task={"dataset": {"kind": "csv", "path": "d.csv", "target": "y", "features": ["x", "y"]}}),
        "'y' is the target and cannot be a feature",
    ),
    "a feature twice": (
        document(task={"dataset": {"kind": "csv", "path": "d.csv", "target": "y", "features": ["x", "x"]}}),
        "features lists 'x' more than once",
    ),
    "loss": (document(task={"dataset": {"kind": "line"}, "loss": "l7"}), "task.loss: given 'l7'; allowed: mse"),
    "empty axis": (with_lr({"values": []}), "parameters.lr.values: given []; must have at least one entry"),
    "axis without form": (with_lr({}), "parameters.lr: given {}; must have value, values, or min, max and count"),
    "axis with two forms": (with_lr({"value": 1, "values": [1]}), "parameters.lr"),
    "bare axis": (with_lr(0.1), "parameters.lr: given 0.1; must be a mapping such as {value: 0.1}"),
    "empty bare list": (with_lr([]), "parameters.lr.values: given []; must have at least one entry"),
    "text in a bare list": (with_lr([1, "a"]), "parameters.lr.values[1]: given 'a'; must be a number, true or false"),
    "no as a name": (
        document(task={"dataset": {"kind": "csv", "path": "d.csv", "target": "y", "features": [False]}}),
        "task.dataset.features[0]: given false; must be text: YAML reads yes, no, on, off, true and false in any case "
        "as true or false; put the text in quotes",
    ),
    "number as a name": (
        document(task={"dataset": {"kind": "csv", "path": "d.csv", "target": 2020}}),
        "task.dataset.target: given 2020; must be text: put it in quotes",
    ),
    "beyond float32": (
        with_lr({"value": 1e39}),
        "parameters.lr.value: given 1e+39; exceeds the largest float32 number, 3.403e+38",
    ),
    "beyond float64": (with_lr({"value": 10**400}), "parameters.lr.value: given 1000"),
    "huge data": (
        document(task={"dataset": {"kind": "sine", "n": 10**12}}),
        "task.dataset.n: given 1000000000000; must be <= 10000000",
    ),
    "control characters": (document(name="a\0b"), "name: given 'a\\x00b'; must be text without control characters"),
    "blank name": (document(name=" "), "name: given ' '; must be text without control characters, and not blank"),
    "negative lr": (with_lr({"values": [0.1, -0.1]}), "parameters.lr.values[1]: given -0.1; lr must be >= 0"),
    "nan": (with_lr({"value": math.nan}), "parameters.lr.value: given nan; must be a finite number"),
    "inf": (with_lr({"values": [math.inf]}), "parameters.lr.values[0]: given inf; must be a finite number"),
    "inf as bound": (
        with_lr({"min": 0, "max": math.inf, "count": 2}),
        "parameters.lr.max: given inf; must be a finite",
    ),
    "text in axis": (with_lr({"values": ["0.1"]}), "parameters.lr.values[0]: given '0.1'; must be a number"),
    "log from zero": (with_lr({"min": 0, "max": 1, "count": 3, "scale": "log"}), "a log scale requires min > 0"),
    "min above max": (with_lr({"min": 2, "max": 1, "count": 3}), "min must not exceed max"),
    "huge axis": (with_lr({"min": 0, "max": 1, "count": 10**18}), "parameters.lr.count: given 1000000000000000000"),
    "bool as lr": (with_lr({"value": True}), "parameters.lr.value: given true; must be a number"),
    "number as nesterov": (
        document(parameters={"nesterov": {"values": [0, 1]}}),
        "parameters.nesterov.values[0]: given 0; must be true or false",
    ),
    "unknown parameter": (
        document(parameters={"learning_rate": {"value": 1}}),
        "parameters.learning_rate: unknown parameter",
    ),
    "hint for a parameter": (document(parameters={"momentun": {"value": 1}}), "did you mean momentum?"),
    "in a union": (
        document(parameters=[{"lr": {"value": 1}}, {"lr": {"value": -1}}]),
        "parameters[1].lr.value: given -1; lr must be >= 0",
    ),
    "empty union": (document(parameters=[]), "parameters: given []; must have at least one entry"),
    "negative seed": (document(seeds=[-1]), "seeds[0]: given -1; must be >= 0"),
    "no seeds": (document(seeds=[]), "seeds: given []; must have at least one entry"),
    "method": (document(method="magic"), "method: given 'magic'; allowed: grid"),
    "policy": (document(tracking={"trials": "top"}), "tracking.trials: given 'top'; must be all, none or top:N"),
    "null for an axis": (
        with_lr({"value": None}),
        "parameters.lr: given {'value': None}; must have value, values, or min",
    ),
    "null for a bound": (
        with_lr({"min": None, "max": 1, "count": 3}),
        "must have value, values, or min, max and count",
    ),
    "text for a flag": (
        document(task={"dataset": {"kind": "line"}, "model": {"kind": "linear", "bias": "no"}}),
        "task.model.bias: given 'no'; must be true or false",
    ),
    "no mapping for a data set": (document(task={"dataset": 5}), "task.dataset: given 5; must be a mapping"),
    "line break in a key": (document(**{"a\nb": 1}), "a\\nb: unknown key"),
    "escape in an axis' name": (
        document(parameters={"\x1b[1m": {"value": 1}}),
        "parameters.\\x1b[1m: unknown parameter",
    ),
    "endless key": (document(**{"k" * 10**6: 1}), f"{'k' * 57}...: unknown key"),
    "turned text": (document(name="a\u202eb"), "name: given 'a\\u202eb'; must be text without control characters"),
    "separator": (document(name="a\u2028b"), "name: given 'a\\u2028b'; must be text without control characters"),
    "escape in the description": (
        document(description="\x1b[1m"),
        "must be text without control characters other than tabs and line breaks",
    ),
    "too many layers": (
        document(task={"dataset": {"kind": "line"}, "model": {"kind": "mlp", "hidden": [1] * 65}}),
        "at most 64 entries are allowed",
    ),
    "endless batch": (document(training={"epochs": 1, "batch_size": 10**30}), "must be <= 1000000000"),
    "misspelt expected case": (
        document(expected=[{"case": "c", "where": {"momentun": 0}, "final": {}}]),
        "expected[0].where.momentun: unknown parameter (did you mean momentum?)",
    ),
    "nan in an expected case": (
        document(expected=[{"case": "c", "where": {"lr": math.nan}, "final": {}}]),
        "expected[0].where.lr: given nan; must be a finite number",
    ),
    "empty name": (document(name=""), "name: given ''; must not be empty"),
}


@pytest.mark.parametrize(("doc", "message"), BAD.values(), ids=BAD.keys())
def test_bad_input_is_one_line_with_path_value_and_what_is_allowed(doc: object, message: str) -> None:
    found = problems(doc)
    assert len(found) == 1, found
    assert message in found[0]


@pytest.mark.parametrize("device", ["auto", "cpu", "cuda", "cuda:1"])
def test_devices(device: str) -> None:
    assert parse(document(training={"epochs": 1, "device": device}), "c.yaml").training.device == device


def test_of_very_many_problems_the_first_are_told() -> None:
    found = problems(document(parameters=[{"lr": {"values": [], "valves": ["x"] * 10}} for _ in range(20_000)]))
    assert len(found) == MAX_PROBLEMS + 1
    assert found[-1] == "these are the first 50 problems; there are more"


def test_every_problem_is_told_at_once() -> None:
    doc = document(nam="x", training={"epochs": -1, "batch": 1}, parameters={"lr": {"value": "x"}, "mu": {"value": 1}})
    found = problems(doc)
    assert sorted(problem.split(":")[0] for problem in found) == [
        "nam",
        "parameters.lr.value",
        "training.batch",
        "training.epochs",
    ]


@pytest.mark.parametrize(
    ("axis", "points"),
    [
        ({"value": 0.5}, (0.5,)),
        ({"values": [0.5, 1]}, (0.5, 1)),
        ({"min": 1, "max": 3, "count": 3}, (1.0, 2.0, 3.0)),
        ({"min": 0.01, "max": 1, "count": 3, "scale": "log"}, pytest.approx((0.01, 0.1, 1.0))),
        ({"min": 2, "max": 2, "count": 1}, (2.0,)),
    ],
)
def test_axis_points(axis: dict[str, object], points: object) -> None:
    config = parse(with_lr(axis), "c.yaml")
    axis_ = config.mappings()[0]["lr"]
    assert tuple(axis_.points()) == points
    assert len(axis_) == len(axis_.points())


def test_resolved_file_reads_back_the_same() -> None:
    config = parse(document(description="für <b>alle</b>: 1e-3"), "c.yaml")
    assert parse(strict_yaml.read(config.to_yaml(), "again"), "again") == config


@pytest.mark.parametrize("path", SWEEP_FILES, ids=lambda p: p.stem)
def test_shipped_configs_load(path: Path) -> None:
    assert isinstance(load(path), SweepConfig)


def test_overrides(tmp_path: Path) -> None:
    path = ROOT / "configs" / "seed.yaml"
    config = load(path, ["training.epochs=7", "name=other", "parameters.0.lr.value=1e-3", "record.points=3"])
    assert (config.training.epochs, config.name, config.record.points) == (7, "other", 3)
    assert config.mappings()[0]["lr"].value == 1e-3


def test_override_of_a_start_value() -> None:
    config = load(ROOT / "configs" / "stability-map.yaml", ["parameters.init.weight.value=-3"])
    assert config.mappings()[0]["init.weight"].value == -3


RANGE = {"min": 1, "max": 2, "count": 3, "scale": "log"}


@pytest.mark.parametrize(
    ("axis", "overrides", "replaced"),
    [
        ({"value": 1}, ["values=[1, 2]"], {"values": [1, 2]}),
        ({"values": [1, 2]}, ["value=3"], {"value": 3}),
        (RANGE, ["values=[1, 2]"], {"values": [1, 2]}),
        (RANGE, ["value=3"], {"value": 3}),
        (RANGE, ["max=4"], {**RANGE, "max": 4}),
        ({"value": 1}, ["min=1", "max=2", "count=3", "scale=log"], RANGE),
        ([1, 2], ["max=2", "min=1", "count=3", "scale=log"], RANGE),
        ([1, 2], ["value=3"], {"value": 3}),
        ({"values": [1, 2]}, ["values.1=3"], {"values": [1, 3]}),
        (None, ["values=[1, 2]"], {"values": [1, 2]}),
    ],
)
@pytest.mark.parametrize("name", ["lr", "init.weight", "init.weight.0"])
@pytest.mark.parametrize("union", [False, True])
def test_an_override_of_an_axis_replaces_its_form(
    tmp_path: Path, axis: object, overrides: list[str], replaced: object, name: str, union: bool
) -> None:
    mapping: dict[str, object] = {"momentum": {"value": 0}} | ({name: axis} if axis else {})
    doc = document(parameters=[mapping] if union else mapping)
    (tmp_path / "c.yaml").write_text(strict_yaml.write(doc))
    place = f"parameters{'.0' * union}.{name}"
    [loaded] = load(tmp_path / "c.yaml", [f"{place}.{override}" for override in overrides]).mappings()
    [expected] = parse(document(parameters=[{"momentum": {"value": 0}, name: replaced}]), "c.yaml").mappings()
    assert loaded == expected


def test_a_bare_list_is_an_axis_of_its_values() -> None:
    bare = parse(document(parameters={"momentum": [0, 0.9], "nesterov": [False]}), "c.yaml")
    mapped = parse(document(parameters={"momentum": {"values": [0, 0.9]}, "nesterov": {"values": [False]}}), "c.yaml")
    assert bare == mapped
    assert bare.to_yaml() == mapped.to_yaml()


@pytest.mark.parametrize("word", ["NO", "on", "Yes"])
def test_a_truth_value_as_a_key_is_to_be_quoted(word: str) -> None:
    with pytest.raises(ConfigError, match=r"line 1, column 14: the key (True|False) is not text: put it in quotes"):
        loads(f"parameters: {{{word}: [1]}}", "c.yaml")


@pytest.mark.parametrize(
    "override",
    [
        *("epochs", "=3", "name.x=3", "parameters.9.lr=1", "training.epochs=[", "a.b=c"),
        *("parameters.².lr=1", f"parameters.{'9' * 5000}=1", "a." * 10_000 + "a=1", "init.a" * 10_000 + "=1"),
        *("\udcff=1", "name=\udcff", "\x1b=\x1b", "name=!!python/name:os.system"),
    ],
    ids=lambda override: ascii(override[:20]),
)
def test_bad_overrides(override: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(ROOT / "configs" / "seed.yaml", [override])
    assert str(caught.value) == visible(str(caught.value))
    assert len(str(caught.value)) < 500


def test_relative_data_paths_start_at_the_sweep_file(tmp_path: Path) -> None:
    doc = document(task={"dataset": {"kind": "csv", "path": "d.csv", "target": "y"}})
    dataset = parse(doc, "c.yaml", tmp_path).task.dataset
    assert getattr(dataset, "path", None) == str(tmp_path / "d.csv")


def test_a_long_path_reads_back(tmp_path: Path) -> None:
    """Where a sweep is resumed, its data set's path is the whole one."""
    folder = Path("/", *["f" * 100] * 10)
    config = parse(document(task={"dataset": {"kind": "csv", "path": "d.csv", "target": "y"}}), "c.yaml", folder)
    assert parse(strict_yaml.read(config.to_yaml(), "again"), "again") == config


def test_a_folder_whose_name_cannot_be_kept_is_refused() -> None:
    doc = document(task={"dataset": {"kind": "csv", "path": "d.csv", "target": "y"}})
    with pytest.raises(ConfigError, match=r"task\.dataset\.path: folder names must not contain control characters"):
        parse(doc, "c.yaml", Path("/not\udcffunicode"))


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"- 1", b"", b"just text"])
def test_files_that_hold_no_sweep(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "c.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError):
        load(path)
