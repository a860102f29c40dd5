"""CSV and Parquet files: names, line numbers and separators, through the messages that users read."""

import csv
import io
import os
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweeps.config.loader import parse
from sweeps.errors import DataError
from sweeps.planning.task_loader import load_dataset
from tests.support.documents import document
from tests.support.hypothesis_profiles import examples


def problem(folder: Path, content: str | bytes, name: str = "d.csv", **keys: object) -> str:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    description = {"kind": path.suffix[1:], "path": name, "target": "y"} | keys
    with pytest.raises(DataError) as caught:
        load_dataset(parse(document(task={"dataset": description}), "c.yaml", folder).task.dataset)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("header", ["y,x,y", "x,x,y", "x, x,y", "a,y,b,y ", '"y",x,"y"', "\ufeffy,x,y"])
def test_a_repeated_name_is_refused(tmp_path: Path, header: str) -> None:
    """The second column of that name would be a feature: a perfect one where the target is repeated."""
    row = ",".join("1" for _ in header.split(","))
    assert "are both named" in problem(tmp_path, f"{header}\n{row}\n")
    chosen = problem(tmp_path, f"{header}\n{row}\n", features=["x"])
    assert "give every column a name of its own" in chosen


def test_a_repeated_name_in_parquet_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_arrays([pa.array([1.0])] * 3, ["y", "x", "y"]), tmp_path / "t")
    told = problem(tmp_path, (tmp_path / "t").read_bytes(), "d.parquet")
    assert told.endswith(
        "columns 1 and 3 are both named 'y'; give every column a name of its own, or remove one of them"
    )


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("x,y\n\n1,2\n \n\t\nbad,4\n", "line 6, column 'x': the value is 'bad'"),
        ('x,y\n"1\n",2\nbad,4\n', "line 4, column 'x': the value is 'bad'"),
        ('\n\n"x\r\nx",y\r\n\r\n"1",bad\r\n', "line 6, column 'y': the value is 'bad'"),
        ('x,y\r1,"2\r"\r\rbad,1\r', "line 5, column 'x'"),
        ('x,y\n5",2\n6",3\n', "line 2, column 'x': the value is '5\"'"),  # inside a cell, a quote is a character
        ('x,y\n"a""\n"",b",2\n', "line 2, column 'x'"),
        ("x,y\n\n\n1,2\n1,2,3\n", "line 5 has 3 values, but the header has 2 names"),
        ('x,y\n"1\n1",2\n1,"2,3",4\n', "line 4 has 3 values, but the header has 2 names"),
        ("x,y\n1,2,3\n4,5,6\n", "line 2 has 3 values, but the header has 2 names"),
        ('x,y\n\n"1\n",2\n1,"2\n3,4\n', "line 5 opens a quote that is not closed"),
        ('"x,y\n1,2\n', "line 1 opens a quote that is not closed"),
    ],
)
def test_messages_name_the_line_of_an_editor(tmp_path: Path, content: str, told: str) -> None:
    assert told in problem(tmp_path, content)


@examples(50, 2_000)
@given(
    rows=st.lists(st.tuples(st.text('ab,"\n\r ', max_size=4), st.integers(0, 2)), max_size=8),
    end=st.sampled_from(["\n", "\r\n"]),
)
def test_lines_are_those_of_pythons_reader(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, int]], end: str
) -> None:
    text = io.StringIO()
    for cell, blank in [("name", 0), *rows, ("last", 0)]:
        text.write(end * blank)
        csv.writer(text, lineterminator=end, quoting=csv.QUOTE_ALL).writerow([cell, 1 if cell != "name" else "y"])
    content = text.getvalue()
    line = 1 + len(content.encode()[: content.index('"last"')].splitlines())  # of bytes: \r, \n and \r\n alone
    content = content.replace('"last","1"', '"last","bad"')
    told = problem(tmp_path_factory.getbasetemp(), content, features=["name"], categories="one_hot")
    assert f"line {line}, column 'y'" in told


@pytest.mark.parametrize("separator", [";", "\t", "|", " "])
def test_another_separator_is_named_with_the_remedy(tmp_path: Path, separator: str) -> None:
    told = problem(tmp_path, f"x{separator}y\n1,5{separator}2,5\n")
    assert f"has no commas, but {separator!r}" in told
    assert f"read_csv(path, sep={separator!r}, decimal=',').to_csv(path, index=False)" in told


def test_decimal_commas_are_named(tmp_path: Path) -> None:
    told = problem(tmp_path, 'x,y\n"1,5",2\n"2,5",3\n')
    assert "line 2, column 'x': the value is '1,5'" in told
    assert "write numbers with a decimal point" in told


@pytest.mark.parametrize("kind", ["csv", "parquet"])
@pytest.mark.parametrize("path", ["/proc/self/maps", "/proc/kmsg", "/dev/zero", "pipe", "empty"])
def test_what_has_no_size_is_not_read(tmp_path: Path, kind: str, path: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "empty").touch()
    description = {"kind": kind, "path": path, "target": "y"}
    config = parse(document(task={"dataset": description}), "c.yaml", tmp_path)
    with pytest.raises(DataError, match=f"cannot be read as {kind}: (not a regular file|it has no size)"):
        load_dataset(config.task.dataset)


def test_repeated_names_that_pandas_would_make_are_names(tmp_path: Path) -> None:
    pd.DataFrame({"y": [1, 2], "y.1": [3, 4]}).to_csv(tmp_path / "d.csv", index=False)
    description = {"kind": "csv", "path": "d.csv", "target": "y"}
    data = load_dataset(parse(document(task={"dataset": description}), "c.yaml", tmp_path).task.dataset)
    assert data.feature_names == ("y.1",)
