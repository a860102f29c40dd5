import os
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.datasets import load_diabetes
from sklearn.preprocessing import StandardScaler

from sgdcore import Dataset, InvalidTask
from sweeps.config.loader import parse
from sweeps.errors import DataError, InputError
from sweeps.planning import data_file
from sweeps.planning.prepared import prepare
from sweeps.planning.task_loader import load_dataset, load_task
from tests.support.documents import document
from tests.support.hypothesis_profiles import examples


def dataset_of(description: dict[str, object], folder: Path = Path()) -> Dataset:
    return load_dataset(parse(document(task={"dataset": description}), "c.yaml", folder).task.dataset)


def test_diabetes_is_scikit_learns_standardised_by_its_training_part() -> None:
    data = dataset_of({"kind": "diabetes", "standardize": "all", "validation": 0.25, "split_seed": 1})
    assert data.validation is not None
    assert data.inputs.shape == (442 - 110, 10)
    raw = load_diabetes(scaled=False).data
    unscaled = dataset_of({"kind": "diabetes", "validation": 0.25, "split_seed": 1})
    assert unscaled.validation is not None
    scaler = StandardScaler().fit(unscaled.inputs)
    np.testing.assert_allclose(data.inputs, scaler.transform(unscaled.inputs), atol=1e-12)
    np.testing.assert_allclose(data.validation.inputs, scaler.transform(unscaled.validation.inputs), atol=1e-12)
    together = np.concatenate([unscaled.inputs, unscaled.validation.inputs])
    np.testing.assert_array_equal(np.sort(together, axis=0), np.sort(raw, axis=0))


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_tables_are_read_as_pandas_reads_them(tmp_path: Path, kind: str) -> None:
    table = pd.DataFrame({"a": [1, 2, 3], "größe": [0.5, 1e-3, -2.0], "y": [1.0, 2.0, 3.0]})
    path = tmp_path / f"data.{kind}"
    _ = table.to_csv(path, index=False) if kind == "csv" else table.to_parquet(path)
    data = dataset_of({"kind": kind, "path": path.name, "target": "y"}, tmp_path)
    assert data.feature_names == ("a", "größe")
    np.testing.assert_array_equal(data.inputs, table[["a", "größe"]])
    np.testing.assert_array_equal(data.targets, table["y"])
    chosen = dataset_of({"kind": kind, "path": path.name, "target": "a", "features": ["y"]}, tmp_path)
    np.testing.assert_array_equal(chosen.inputs, table[["y"]])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("x,y\n1,2\n,4\n", r"line 3, column 'x': the value is missing"),
        ("x,y\n1,2\n3,n/a-ish\n", r"line 3, column 'y': the value is 'n/a-ish', not a finite number"),
        ("x,y\n1,inf\n", r"line 2, column 'y': the value is 'inf', not a finite number"),
        ("x,y\n1,\n2,\n", r"\(and 1 more in this column\)"),
        ("x,z\n1,2\n", r"no column 'y'; its columns are x, z"),
        ("x,y\n1,2,3\n4,5,6\n", r"cannot be read as csv"),
        ("", r"cannot be read as csv"),
        ('x,y\n"1,2\n', r"cannot be read as csv"),
        ("x,y\n", r"need at least one sample"),
        ("x,y\n1,\0\n2,3\n", r"line 2, column 'y': the value is '\\x00', not a finite number"),
        ("x,y\n1," + "9" * 1_000_000 + "\n", r"column 'y': .*9{30,60}\.\.\."),
        ("x,y\n" + "9" * 400 + ",1\n", r"column 'x' has values that are not numbers"),
        ("x\x1b[31m,z\n1,2\n", r"no column 'y'; its columns are x\\x1b\[31m, z"),
        ('"x\nx",z\n1,2\n', r"no column 'y'; its columns are x\\nx, z"),
        ("a" * 1_000_000 + ",z\n1,2\n", r"its columns are a{57}\.\.\., z"),
        ("x,y\n1e308,1\n", r"finite in float32"),
    ],
    ids=[
        "missing",
        "text",
        "infinite",
        "several",
        "no such column",
        "rows longer than the header",
        "empty",
        "broken",
        "no rows",
        "null character",
        "huge field",
        "huge number",
        "escape in a name",
        "line break in a name",
        "huge name",
        "beyond float32",
    ],
)
def test_bad_tables_are_refused_with_the_cell(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "bad.csv"
    path.write_text(content)
    description = {"kind": "csv", "path": "bad.csv", "target": "y"}
    config = parse(document(task={"dataset": description}), "c.yaml", tmp_path)
    with pytest.raises(InputError, match=message) as caught:
        prepare(config)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1_000


@pytest.mark.parametrize("kind", ["csv", "parquet"])
@pytest.mark.parametrize("name", ["none", ".", "pipe", "loop", "none/none", "file/none", "/dev/zero", "x" * 300])
def test_what_is_no_file_is_refused(tmp_path: Path, kind: str, name: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"no such file|cannot be read"):
        dataset_of({"kind": kind, "path": name, "target": "y"}, tmp_path)


def test_parquet_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "x.parquet").write_text("not parquet")
    with pytest.raises(DataError, match="cannot be read as parquet"):
        dataset_of({"kind": "parquet", "path": "x.parquet", "target": "y"}, tmp_path)


@examples(50, 1_000)
@given(changes=st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=5))
def test_a_damaged_parquet_file_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[int, int]]
) -> None:
    path = tmp_path_factory.getbasetemp() / "damaged.parquet"
    pd.DataFrame({"x": [1.0, 2.0], "y": [1.0, 2.0]}).to_parquet(path)
    content = bytearray(path.read_bytes())
    for place, byte in changes:
        content[place % len(content)] = byte
    path.write_bytes(content)
    try:
        data = dataset_of({"kind": "parquet", "path": path.name, "target": "y"}, path.parent)
    except (DataError, InvalidTask):
        return
    assert np.isfinite(data.inputs).all()


@pytest.mark.parametrize("metadata", ["no JSON", '{"index_columns": [5], "columns": 3}', "{}"])
def test_a_parquet_file_with_damaged_metadata(tmp_path: Path, metadata: str) -> None:
    table = pa.table({"x": [1.0, 2.0], "y": [1.0, 2.0]}).replace_schema_metadata({"pandas": metadata})
    pq.write_table(table, tmp_path / "d.parquet")
    with pytest.raises(DataError, match=r"d\.parquet: cannot be read as parquet"):
        dataset_of({"kind": "parquet", "path": "d.parquet", "target": "y"}, tmp_path)


@pytest.mark.parametrize(
    "column",
    [
        [[1], [2]],
        [{"a": 1}, {"a": 2}],
        [b"a", b"b"],
        pa.array([[("a", 1)], [("b", 2)]], pa.map_(pa.string(), pa.int64())),
        pa.array([1, 2], pa.date32()),
        pa.array([1, 2], pa.duration("s")),
        pa.array([1, 2], pa.timestamp("us", "UTC")),
        pa.nulls(2),
    ],
    ids=["lists", "structs", "bytes", "maps", "dates", "durations", "instants", "nothing"],
)
def test_columns_that_hold_no_numbers(tmp_path: Path, column: object) -> None:
    pq.write_table(pa.table({"x": column, "y": [1.0, 2.0]}), tmp_path / "d.parquet")
    with pytest.raises(DataError, match=r"column 'x'") as caught:
        dataset_of({"kind": "parquet", "path": "d.parquet", "target": "y"}, tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("data", "model", "size"),
    [
        ({"kind": "linear", "n": 10_000_000, "d": 1_000}, {"kind": "linear"}, "10,000,000 samples x 1,000 features"),
        ({"kind": "sine", "n": 10_000_000}, {"kind": "polynomial", "degree": 64}, "10,000,000 samples x 64 features"),
        ({"kind": "sine"}, {"kind": "mlp", "hidden": [100_000] * 64}, "the network has 630,006,600,001 parameters"),
    ],
)
def test_absurd_sizes_are_refused_before_they_are_made(
    data: dict[str, object], model: dict[str, object], size: str
) -> None:
    with pytest.raises(DataError, match=size):
        load_task(parse(document(task={"dataset": data, "model": model}), "c.yaml").task)


@pytest.mark.parametrize(
    ("kind", "limit", "message"),
    [
        ("csv", "MAX_DATA_BYTES", r"d\.csv: .*[\d,]+ bytes; at most 10 are allowed"),
        ("parquet", "MAX_DATA_BYTES", r"d\.parquet: .*[\d,]+ bytes; at most 10 are allowed"),
        ("parquet", "MAX_NUMBERS", r"d\.parquet: 1,000 rows x 2 columns, 2,000 values; at most 20 are allowed"),
    ],
)
def test_large_files_are_refused_before_they_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, limit: str, message: str
) -> None:
    table = pd.DataFrame({"x": np.zeros(1000), "y": np.zeros(1000)})
    path = tmp_path / f"d.{kind}"
    _ = table.to_csv(path, index=False) if kind == "csv" else table.to_parquet(path)
    monkeypatch.setattr(data_file, limit, 10)
    monkeypatch.setattr(pd, f"read_{kind}", None)
    with pytest.raises(DataError, match=message):
        dataset_of({"kind": kind, "path": path.name, "target": "y"}, tmp_path)


def test_dates_are_no_numbers(tmp_path: Path) -> None:
    table = pd.DataFrame({"x": pd.to_datetime(["2026-01-01", "2026-01-02"]), "y": [1.0, 2.0]})
    table.to_parquet(tmp_path / "d.parquet")
    with pytest.raises(DataError, match=r"column 'x' has datetime64"):
        dataset_of({"kind": "parquet", "path": "d.parquet", "target": "y"}, tmp_path)


def test_a_model_that_does_not_fit() -> None:
    task = {"dataset": {"kind": "diabetes"}, "model": {"kind": "polynomial"}}
    with pytest.raises(DataError, match="a polynomial model takes one feature, but the data set has 10"):
        load_task(parse(document(task=task), "c.yaml").task)


@pytest.mark.parametrize("kind", ["line", "linear", "polynomial", "sine"])
def test_made_data_are_the_same_every_time(kind: str) -> None:
    description = {"kind": kind, "noise": 0.1, "seed": 3}
    assert dataset_of(description).digest == dataset_of(description).digest
    assert dataset_of(description).digest != dataset_of(description | {"seed": 4}).digest
