"""Missing values, categories and unnamed columns, compared with pandas and scikit-learn."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.impute import SimpleImputer
from sklearn.preprocessing import OneHotEncoder

from sgdcore import Dataset
from sweeps.config.loader import parse
from sweeps.errors import DataError
from sweeps.planning.task_loader import load_dataset
from tests.support.documents import document

KINDS = pytest.mark.parametrize("kind", ["csv", "parquet"])


def people() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    table = pd.DataFrame(
        {
            "age": rng.normal(40, 10, 30),
            "color": rng.choice(["red", "green", "blue"], 30),
            "height": rng.normal(170, 10, 30),
            "size": rng.choice(["S", "L"], 30),
            "y": rng.normal(size=30),
        }
    )
    table.loc[[3, 7, 8], "age"] = np.nan
    table.loc[[7, 20], "height"] = np.nan
    return table


def write(table: pd.DataFrame, folder: Path, kind: str) -> None:
    path = folder / f"d.{kind}"
    _ = table.to_csv(path, index=False) if kind == "csv" else table.to_parquet(path)


def load(folder: Path, kind: str, **keys: Any) -> Dataset:
    description = {"kind": kind, "path": f"d.{kind}", "target": "y"} | keys
    return load_dataset(parse(document(task={"dataset": description}), "c.yaml", folder).task.dataset)


def problem(folder: Path, kind: str, **keys: Any) -> str:
    with pytest.raises(DataError) as caught:
        load(folder, kind, **keys)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@KINDS
def test_all_columns_that_cannot_be_used_are_in_one_message(tmp_path: Path, kind: str) -> None:
    write(people(), tmp_path, kind)
    line = (lambda row: f"line {row + 2}") if kind == "csv" else (lambda row: f"row {row}")
    told = problem(tmp_path, kind)
    for part in (
        f"{line(3)}, column 'age': the value is missing (and 2 more in this column)",
        f"{line(7)}, column 'height': the value is missing (and 1 more in this column)",
        f"{line(0)}, column 'color': the value is ",
        f"{line(0)}, column 'size': the value is ",
        "set task.dataset.missing to drop (the rows) or mean (of the training part)",
        "set task.dataset.categories to one_hot",
        "list the columns to use in task.dataset.features",
    ):
        assert part in told
    assert "one_hot" not in problem(tmp_path, kind, features=["age", "height"])
    assert "missing to drop" not in problem(tmp_path, kind, features=["color"])


def test_a_wide_table_names_the_first_columns(tmp_path: Path) -> None:
    write(pd.DataFrame({f"c{i}": ["a", "b"] for i in range(500)} | {"y": [1, 2]}), tmp_path, "csv")
    told = problem(tmp_path, "csv")
    assert "column 'c19'" in told
    assert "and 480 more columns" in told
    assert len(told) < 2_500


@KINDS
def test_rows_with_missing_values_are_dropped_as_pandas_does(tmp_path: Path, kind: str) -> None:
    table = people()
    table.loc[5, "y"] = np.nan
    write(table, tmp_path, kind)
    data = load(tmp_path, kind, missing="drop", features=["height", "age"])
    kept = table.dropna(subset=["height", "age", "y"])
    np.testing.assert_allclose(data.inputs, kept[["height", "age"]], rtol=1e-15)
    np.testing.assert_allclose(data.targets, kept["y"], rtol=1e-15)
    assert data.notes == ("dropped 5 of 30 rows, which have missing values",)
    unused = load(tmp_path, kind, missing="drop", features=["age"])
    assert len(unused) == 30 - 4  # a gap in a column that is not used costs no row


@KINDS
@pytest.mark.parametrize("seed", [0, 1])
def test_the_mean_is_that_of_the_training_part(tmp_path: Path, kind: str, seed: int) -> None:
    table = people()
    write(table, tmp_path, kind)
    features = ["age", "height"]
    data = load(tmp_path, kind, missing="mean", features=features, validation=0.4, split_seed=seed)
    assert data.validation is not None
    is_train = table["y"].isin(data.targets)  # targets are distinct
    assert is_train.sum() == len(data) == 18
    imputer = SimpleImputer().fit(table.loc[is_train, features])
    assert not np.allclose(imputer.statistics_, table[features].mean(), rtol=1e-6)  # validation would have been seen
    np.testing.assert_allclose(data.inputs, imputer.transform(table.loc[is_train, features]), rtol=1e-14)
    np.testing.assert_allclose(data.validation.inputs, imputer.transform(table.loc[~is_train, features]), rtol=1e-14)
    whole = load(tmp_path, kind, missing="mean", features=features)
    np.testing.assert_allclose(whole.inputs, SimpleImputer().fit_transform(table[features]), rtol=1e-14)


@KINDS
def test_categories_become_the_columns_of_get_dummies(tmp_path: Path, kind: str) -> None:
    table = people().drop(columns=["age", "height"]).assign(z=range(30), on=[True, False] * 15)
    write(table, tmp_path, kind)
    data = load(tmp_path, kind, categories="one_hot")
    expected = pd.get_dummies(table.drop(columns="y"), dtype=float)
    assert data.feature_names == tuple(expected.columns)
    np.testing.assert_array_equal(data.inputs, expected.to_numpy(dtype=float))
    encoder = OneHotEncoder(sparse_output=False).fit(table[["color", "size"]])
    assert data.feature_names[2:] == tuple(encoder.get_feature_names_out())
    np.testing.assert_array_equal(data.inputs[:, 2:], encoder.transform(table[["color", "size"]]))


def test_categories_of_parquet_are_encoded_without_those_that_no_row_has(tmp_path: Path) -> None:
    table = pd.DataFrame({"c": pd.Categorical(["b", "a", "b"], categories=["b", "a", "never"]), "y": [1.0, 2, 3]})
    write(table, tmp_path, "parquet")
    data = load(tmp_path, "parquet", categories="one_hot")
    assert data.feature_names == ("c_b", "c_a")
    np.testing.assert_array_equal(data.inputs, [[1, 0], [0, 1], [1, 0]])
    assert "set task.dataset.categories to one_hot" in problem(tmp_path, "parquet")


@pytest.mark.parametrize(
    ("columns", "keys", "told"),
    [
        ({"c": ["a", None]}, {"categories": "one_hot"}, "column 'c': the value is missing"),
        ({"c": ["a", None]}, {"categories": "one_hot", "missing": "mean"}, "set task.dataset.missing to drop"),
        ({"x": [1, 2], "y": [1, None]}, {"missing": "mean"}, "set task.dataset.missing to drop"),
        ({"x": [None, None]}, {"missing": "mean"}, "column 'x': the training part has no values"),
        ({"x": [None, 1], "y": [1, None]}, {"missing": "drop"}, "every row has a missing value"),
        ({"x": ["1", "?"]}, {"categories": "one_hot"}, "the value is '?', not a finite number"),
        ({"x": ["1", "?"]}, {"missing": "drop"}, "the value is '?', not a finite number"),
        ({"x": [1, np.inf]}, {"missing": "mean"}, "the value is 'inf', not a finite number"),
        ({"c": ["a", "b"], "c_a": [1, 2]}, {"categories": "one_hot"}, "a second column would be named 'c_a'"),
        ({"y": ["a", "b"], "x": [1, 2]}, {"categories": "one_hot"}, "column 'y': the value is 'a'"),
        (
            {"id": [f"i{n}" for n in range(1_001)], "y": range(1_001)},
            {"categories": "one_hot"},
            "column 'id': 1,001 categories; at most 1,000 are allowed",
        ),
    ],
)
def test_what_cannot_be_filled_in_or_encoded(
    tmp_path: Path, columns: dict[str, Any], keys: dict[str, Any], told: str
) -> None:
    write(pd.DataFrame({"y": [1.0, 2.0]} | columns if len(columns.get("y", "12")) == 2 else columns), tmp_path, "csv")
    assert told in problem(tmp_path, "csv", **keys)


@pytest.mark.parametrize("labels", [[0, 1, 2], [5, 9, 7], ["ann", "bob", "eve"]])
def test_an_index_that_pandas_wrote_is_left_out_and_noted(tmp_path: Path, labels: list[Any]) -> None:
    table = pd.DataFrame({"x": [1.0, 2, 3], "y": [1.0, 2, 4]}, index=labels)
    table.to_csv(tmp_path / "d.csv")
    data = load(tmp_path, "csv")
    assert data.feature_names == ("x",)
    assert data.notes == ("left out column 1, a table's index: it has no name",)
    pd.read_csv(tmp_path / "d.csv").to_csv(tmp_path / "d.csv", index=False)  # the column is now named 'Unnamed: 0'
    assert load(tmp_path, "csv").feature_names == ("x",)
    if isinstance(labels[0], int):
        assert load(tmp_path, "csv", features=["Unnamed: 0"]).feature_names == ("Unnamed: 0",)


def test_an_index_in_parquet_is_left_out(tmp_path: Path) -> None:
    table = pd.DataFrame({"x": [1.0, 2, 3], "y": [1.0, 2, 4], "__index_level_0__": [3, 3, 5]})
    write(table, tmp_path, "parquet")
    assert load(tmp_path, "parquet").feature_names == ("x",)


@pytest.mark.parametrize("header", ["x,,y", "x,y,", ",x,y"])
def test_an_unnamed_column_that_is_no_index_is_refused(tmp_path: Path, header: str) -> None:
    (tmp_path / "d.csv").write_text(f"{header}\n1.5,2.5,3\n2.5,3.5,4\n")
    place = header.split(",").index("") + 1
    told = problem(tmp_path, "csv")
    assert f"column {place} has no name; name it in the file, or list the columns to use" in told
