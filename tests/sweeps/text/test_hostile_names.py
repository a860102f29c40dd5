"""Names are text wherever they come out: paths, MLflow, the terminal, reports; modules are named before they run."""

import json
import re
import shutil
from collections import Counter
from html.parser import HTMLParser
from io import StringIO
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from mlflow import MlflowClient
from mlflow.entities import Run
from typer.testing import CliRunner, Result

from sweeps.cli import app, terminal
from sweeps.config import strict_yaml
from sweeps.store.store import Store
from sweeps.text.formatting import escaped
from sweeps.text.sanitize import visible
from tests.support.documents import document

NAME = "\"><script>alert(1)</script> ../../x [bold]b[/] [/] | \\' & {{ 7 * 7 }} $(x) `y` *z* %s :smile: &lt; 日本"
DESCRIPTION = f"- {NAME}\n\n# <img src=x onerror=alert(1)>\n<!-- x -->"
ACTING = "\x1b[31mred\x07\x9b\r\u2028\u202e\ud800"  # in no name of a sweep file, but in paths and wrong keys


def sweep_file(folder: Path, name: str, description: str) -> Path:
    """A sweep with this name wherever a sweep file takes one."""
    folder.mkdir()
    (folder / "data.csv").write_text("x,y\n1,2\n2,3\n4,4\n")
    (folder / "my_module.py").write_text("import torch\ndef make(**_):\n    return torch.nn.Linear(1, 1)\n")
    path = folder / "sweep.yaml"
    whole = document(
        name=name,
        description=description,
        task={
            "dataset": {"kind": "csv", "path": "data.csv", "target": "y"},
            "model": {"kind": "module", "module": "my_module:make", "arguments": {name: description, "a//b": [name]}},
        },
        expected=[{"case": name, "where": {"lr": 0.01}, "final": "torch.optim.SGD"}],
    )
    path.write_text(strict_yaml.write(whole))
    return path


class Shape(HTMLParser):
    """The elements and the attributes of a page, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements, self.text = Counter[tuple[str, ...]](), ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements[tag, *(key for key, _ in attrs)] += 1

    def handle_comment(self, data: str) -> None:
        self.elements["comment"] += 1

    def handle_data(self, data: str) -> None:
        self.text += data


def sweeps(*arguments: object) -> Result:
    done = CliRunner().invoke(app, list(map(str, arguments)))
    assert done.exit_code == 0, (done.output, done.exception)
    assert "\x1b" not in done.output
    return done


def ran(path: Path, root: Path, migrated_database: Path) -> tuple[Store, str, str]:
    """Run a sweep into a store of its own; returns the store, the sweep's id and what was said."""
    store = Store(root)
    store.check_writable()
    shutil.copy(migrated_database, store.root / "mlflow.db")
    said = sweeps("run", path, "--executor", "inline", "--store", root).output
    [files] = store.sweeps()
    return store, files.sweep_id, said


def parent_run(store: Store, name: str) -> Run:
    client = MlflowClient(store.tracking_uri)
    experiment = client.get_experiment_by_name(name)
    [parent] = client.search_runs([experiment.experiment_id], "tags.`sweeps.kind` = 'sweep'")
    return parent


def rendered(markdown: str) -> Shape:
    """The page that a renderer makes of Markdown when it lets HTML pass."""
    return Shape(MarkdownIt("commonmark", {"html": True}).enable("table").render(markdown))


@pytest.mark.parametrize(
    "text", ["0.1", "-0.5", "12.3 %", "1. a", "12) b", "7.", "- a", "---", "+", "=", "\\1. x", "a\\b", "_x_ a_b"]
)
def test_markdown_shows_text_as_it_is(text: str) -> None:
    page = MarkdownIt("commonmark").render(f"above\n\n{escaped(text)}")
    assert page == f"<p>above</p>\n<p>{text}</p>\n"


def test_numbers_in_markdown_are_left_alone() -> None:
    assert [escaped(text) for text in ("0.1", "-0.5", "7.0 %", "1e-3")] == ["0.1", "-0.5", "7.0 %", "1e-3"]


@pytest.mark.slow
def test_a_name_is_text_everywhere(tmp_path: Path, migrated_database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, plain = sweep_file(tmp_path / "hostile", NAME, DESCRIPTION), sweep_file(tmp_path / "plain", "n", "d")
    monkeypatch.chdir(tmp_path / "hostile")
    before = {file.name for file in tmp_path.iterdir()}
    store, sweep_id, said = ran(path, tmp_path / "store", migrated_database)
    plain_store, plain_id, _ = ran(plain, tmp_path / "plain store", migrated_database)
    assert {file.name for file in tmp_path.iterdir()} == before | {"store", "plain store"}

    assert f"{NAME}: 12 trials" in said
    [listed] = json.loads(sweeps("list", "--store", store.root, "--json").stdout)
    assert listed["name"] == NAME
    assert NAME in sweeps("list", "--store", store.root).stdout
    assert NAME in sweeps("show", sweep_id, "--store", store.root).stdout

    client = MlflowClient(store.tracking_uri)
    experiment = client.get_experiment_by_name(NAME)
    assert experiment.artifact_location.startswith(store.artifacts.as_uri())
    assert ".." not in experiment.artifact_location.split("/")
    parent, plain_parent = parent_run(store, NAME), parent_run(plain_store, "n")
    assert parent.info.run_name == f"{NAME} {sweep_id}"
    assert parent.data.params["name"] == NAME
    assert DESCRIPTION in parent.data.params.values()
    note, plain_note = (rendered(run.data.tags["mlflow.note.content"]) for run in (parent, plain_parent))
    assert " ".join(DESCRIPTION.split()) in note.text
    assert note.elements == plain_note.elements
    assert len(client.search_runs([experiment.experiment_id])) == 13

    hostile_report, plain_report = (
        {form: sweeps("report", i, "--store", root, "--format", form).stdout for form in ("html", "md", "csv", "json")}
        for i, root in ((sweep_id, store.root), (plain_id, tmp_path / "plain store"))
    )
    page, plain_page = Shape(hostile_report["html"]), Shape(plain_report["html"])
    assert page.elements == plain_page.elements
    assert NAME in page.text
    assert [len(re.findall(r"(?<!\\)\|", line)) for line in hostile_report["md"].splitlines()] == [
        len(re.findall(r"(?<!\\)\|", line)) for line in plain_report["md"].splitlines()
    ]
    assert not re.search(r"^\s*[-+*] ", hostile_report["md"].partition("**")[0], re.MULTILINE)
    assert json.loads(hostile_report["json"])["name"] == NAME
    cells = pd.read_csv(StringIO(hostile_report["csv"]), dtype=str, header=None).stack()
    assert not cells.str.match(r"[=+@\t\r]|-(?![\d.])").any()  # which spreadsheets would take for formulas


@given(st.text(st.characters()) | st.just(ACTING))
def test_what_is_said_is_one_line_that_does_nothing(text: str) -> None:
    line = text.replace("\n", " ")
    with terminal.out.capture() as said, terminal.err.capture() as complained:
        terminal.say(text)
        terminal.complain(line)
        terminal.show_table(pd.DataFrame({"title": [text.encode(errors="replace").decode()]}))
    assert said.get().splitlines()[0] == visible(text)
    assert complained.get() == f"error: {visible(line)}\n"
    for shown in (said.get(), complained.get()):
        assert shown.replace("\n", "").encode() == visible(shown.replace("\n", "")).encode()


def test_a_plan_names_what_it_imports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = sweep_file(tmp_path / "sweep", "n", "d")
    monkeypatch.chdir(path.parent)
    assert "module: my_module:make is imported and called" in sweeps("plan", path).stdout
    assert json.loads(sweeps("plan", path, "--json").stdout)["module"] == "my_module:make"


def test_a_module_is_named_before_it_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = sweep_file(tmp_path / "sweep", "n", "d")
    (path.parent / "speaking.py").write_text("print('imported')\nraise ImportError('no')\n")
    monkeypatch.chdir(path.parent)
    monkeypatch.syspath_prepend(path.parent)
    done = CliRunner().invoke(app, ["plan", str(path), "--set", "task.model.module=speaking:make"])
    assert done.stdout.splitlines() == [
        f"module: speaking:make is imported and called, from {path.parent}, here and by every worker",
        "imported",
    ]
    done = CliRunner().invoke(app, ["plan", str(path), "--json", "--set", "task.model.module=speaking:make"])
    assert done.stderr.splitlines()[0].startswith("module: speaking:make is imported and called")


@pytest.mark.parametrize(
    "module", ["../evil:make", "/tmp/evil:make", "evil.py:make ", "os;import evil:x", "evil", ":x", "a:"]
)
def test_what_is_no_dotted_name_is_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    path = sweep_file(tmp_path / "sweep", "n", "d")
    (tmp_path / "evil.py").write_text("from pathlib import Path\nPath('ran').touch()\n")
    monkeypatch.chdir(path.parent)
    done = CliRunner().invoke(app, ["plan", str(path), "--set", f"task.model.module={json.dumps(module)}"])
    assert done.exit_code == 2
    assert "must have the form package.module:callable" in done.stderr
    assert not Path("ran").exists()


@pytest.mark.parametrize(
    ("source", "cause"),
    [
        ("import sys; sys.exit(0)", "it cannot be imported: SystemExit: 0"),
        ("raise RuntimeError('a\\x1b[31m\\nb')", r"it cannot be imported: RuntimeError: a\x1b[31m"),
        ("def make(**_): raise SystemExit", "the factory raised SystemExit: "),
        ("make = 3", "it must be a callable, not int"),
        ("def make(**_): return 3", "the factory must return a torch.nn.Module, not int"),
        ("def make(**_:", "it cannot be imported: SyntaxError: "),
    ],
)
def test_a_module_that_fails_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, cause: str, request: pytest.FixtureRequest
) -> None:
    path = sweep_file(tmp_path / "sweep", "n", "d")
    name = f"failing_{abs(hash(request.node.name))}"
    (path.parent / f"{name}.py").write_text(source)
    monkeypatch.chdir(path.parent)
    monkeypatch.syspath_prepend(path.parent)
    done = CliRunner().invoke(app, ["plan", str(path), "--set", f"task.model.module={name}:make"])
    assert done.exit_code == 2
    [line] = done.stderr.splitlines()
    assert cause in line
