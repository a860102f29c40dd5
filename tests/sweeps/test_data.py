from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_diabetes
from sklearn.preprocessing import StandardScaler

from sgdcore import Dataset
from sweeps.config import parse
from sweeps.data import load_dataset, load_task
from sweeps.errors import DataError
from tests.sweeps.conftest import document


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
        ("x,z\n1,2\n", r"there is no column 'y'; its columns: x, z"),
        ("x,y\n1,2,3\n4,5,6\n", r"cannot be read as csv"),
        ("", r"cannot be read as csv"),
        ('x,y\n"1,2\n', r"cannot be read as csv"),
        ("x,y\n", r"needs samples"),
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
    ],
)
def test_bad_tables_are_refused_with_the_cell(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "bad.csv"
    path.write_text(content)
    description = {"kind": "csv", "path": "bad.csv", "target": "y"}
    config = parse(document(task={"dataset": description}), "c.yaml", tmp_path)
    with pytest.raises(DataError, match=message) as caught:
        load_task(config.task)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("kind", "name"), [("csv", "none.csv"), ("parquet", "none.parquet"), ("csv", ".")])
def test_missing_files_are_refused(tmp_path: Path, kind: str, name: str) -> None:
    with pytest.raises(DataError, match=r"no such file|cannot be read"):
        dataset_of({"kind": kind, "path": name, "target": "y"}, tmp_path)


def test_parquet_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "x.parquet").write_text("not parquet")
    with pytest.raises(DataError, match="cannot be read as parquet"):
        dataset_of({"kind": "parquet", "path": "x.parquet", "target": "y"}, tmp_path)


def test_dates_are_no_numbers(tmp_path: Path) -> None:
    table = pd.DataFrame({"x": pd.to_datetime(["2026-01-01", "2026-01-02"]), "y": [1.0, 2.0]})
    table.to_parquet(tmp_path / "d.parquet")
    with pytest.raises(DataError, match=r"column 'x' holds datetime64"):
        dataset_of({"kind": "parquet", "path": "d.parquet", "target": "y"}, tmp_path)


def test_a_model_that_does_not_fit() -> None:
    task = {"dataset": {"kind": "diabetes"}, "model": {"kind": "polynomial"}}
    with pytest.raises(DataError, match="a polynomial model takes one feature, the data set has 10"):
        load_task(parse(document(task=task), "c.yaml").task)


@pytest.mark.parametrize("kind", ["line", "linear", "polynomial", "sine"])
def test_made_data_are_the_same_every_time(kind: str) -> None:
    description = {"kind": kind, "noise": 0.1, "seed": 3}
    assert dataset_of(description).digest == dataset_of(description).digest
    assert dataset_of(description).digest != dataset_of(description | {"seed": 4}).digest
