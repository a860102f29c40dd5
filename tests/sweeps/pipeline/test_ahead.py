"""While a cluster starts, what the end of the sweep needs is imported."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import sys
from sweeps.config.loader import parse
from sweeps.execution.inline import InlineExecutor
from sweeps.pipeline.run import create
from sweeps.planning.prepared import prepare
from sweeps.store.store import Store
from tests.support.documents import document
from tests.support.doubles import Untracked
from tests.support.processes import until

class Starting(InlineExecutor):
    is_inline = False

    def start(self):
        until(lambda: {"matplotlib.figure", "sweeps.report.files", *sys.argv[1:]} <= set(sys.modules))

final = "torch.optim.SGD" if "torch" in sys.argv else {"weight": 1}
expected = [{"case": "c", "where": {"lr": 0.01}, "final": final}]
assert not {"torch", "plotly", "matplotlib"} & set(sys.modules)
create(prepare(parse(document(expected=expected), "test.yaml")), Store("store"), Starting(), Untracked())
print("torch" in sys.modules)
"""


@pytest.mark.slow
@pytest.mark.parametrize("compared_with", ["torch", "numbers"])
def test_imports_are_made_while_the_executor_starts(tmp_path: Path, compared_with: str) -> None:
    arguments = ["torch"] * (compared_with == "torch")
    command = [sys.executable, "-c", SCRIPT, *arguments]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert done.stdout == f"{compared_with == 'torch'}\n", done.stderr
