"""linear_triton without a GPU: interpreted, it passes the suite of all kernels; compiled, it is what it should be."""

import os
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
import triton

from sgdcore import Hyperparams, KernelUnavailable, Task, devices, train
from sgdcore.kernels.dispatch import MOST_PARAMETERS, choose
from sgdcore.kernels.linear_triton import program, wide_program
from sgdcore.kernels.linear_triton.kernel import REGISTER_PARAMETERS, THREADS, block_of
from sgdcore.tasks import line, linear
from tests.support.documents import ROOT
from tests.support.kernel_cases import (
    TRAIN_INPUTS,
    TrainInput,
    assert_close_training,
    assert_same,
    assert_same_training,
)
from tests.support.triton_compiled import Compiled


@pytest.mark.skipif(triton.__version__ < "3.9", reason="its interpreter rounds fused multiply-adds twice")
def test_interpreted_it_passes_the_suite_of_all_kernels(tmp_path: Path):
    modules = [
        ROOT / "tests" / "sgdcore" / "kernels" / "test_kernels.py",
        ROOT / "tests" / "sgdcore" / "test_engine.py",
        ROOT / "tests" / "support" / "triton_interpreter_cases.py",
    ]
    log = tmp_path / "results.xml"
    options = ["-q", "-k", "triton", "-p", "no:cacheprovider", f"--junitxml={log}"]
    run = subprocess.run(
        [sys.executable, "-m", "pytest", *modules, *options],
        cwd=ROOT,
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout
    [suite] = ElementTree.parse(log).iter("testsuite")
    assert [suite.get(name) for name in ("failures", "errors", "skipped")] == ["0", "0", "0"]
    assert int(suite.get("tests", 0)) >= len(TRAIN_INPUTS) + 50


def test_a_launch_compiles_what_these_tests_compile():
    """No argument's value or alignment makes another kernel of it."""
    for step in (program.advance, wide_program.advance):
        assert all(param.do_not_specialize for param in step.params if not param.is_constexpr)


@pytest.fixture(
    scope="module",
    params=[
        (90, "fp32", 1, True, True),
        (80, "fp32", 1, True, True),
        (90, "fp32", 1, True, False),
        (90, "fp32", 3, False, True),
        (80, "fp32", 7, True, False),
        (90, "fp32", REGISTER_PARAMETERS - 1, True, True),
        (90, "fp64", 1, True, True),
        (80, "fp64", 3, True, False),
        (90, "fp64", REGISTER_PARAMETERS - 1, True, False),
        (90, "fp32", 1, True, True, {"GROUPS": 2, "SCHEDULED": 1}),
        (90, "fp32", REGISTER_PARAMETERS - 1, True, False, {"SCHEDULED": 2}),
        (80, "fp32", 7, True, True, {"GROUPS": 2, "SCHEDULED": 1, "CLIPS_NORM": True, "CLIPS_VALUE": True}),
        (90, "fp64", 3, True, True, {"CLIPS_NORM": True}),
    ],
    ids=lambda given: "-".join(map(str, given)),
)
def compiled(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Compiled:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(
            "TRITON_CACHE_DIR", str(tmp_path_factory.mktemp("triton"))
        )  # compiled anew, not taken from a cache
        shape, more = request.param[:5], request.param[5:]
        return Compiled.of(*shape, **(more[0] if more else {}))


def test_a_trial_stays_in_registers(compiled: Compiled):
    """No stack and no local memory: nothing spills, from a launch's first step to its last."""
    assert [compiled.memory[name] for name in ("stack", "shared", "local")] == [0, 0, 0]
    assert ".local" not in compiled.ptx


def test_the_only_fused_operations_are_the_rules_own(compiled: Compiled):
    """Decay, buffer, Nesterov and step, once for every parameter of every trial of a thread: the loop is not unrolled.

    A norm has one for every parameter but the first. Products and sums that are not the rule's have an explicit
    rounding, so that ptxas may not fuse them either.
    """
    expected = 4 * compiled.parameters + (compiled.parameters - 1 if compiled.clips_norm else 0)
    assert len(re.findall(r"\bfma\.", compiled.ptx)) == expected * compiled.per_thread
    of_norms = {"div.rn", "sqrt.rn"} if compiled.clips_norm else set()
    assert {name.partition(".f")[0] for name in compiled.arithmetic} <= {
        "fma.rn",
        "add.rn",
        "sub.rn",
        "mul.rn",
    } | of_norms
    assert ".ftz" not in compiled.ptx
    assert ".approx" not in compiled.ptx


EVERYTHING = {"GROUPS": 2, "SCHEDULED": 2, "CLIPS_NORM": True, "CLIPS_VALUE": True}


@pytest.mark.parametrize(
    ("capability", "dtype", "features", "bias", "single", "more"),
    [
        (90, "fp32", REGISTER_PARAMETERS, True, True, {}),
        (80, "fp32", 40, False, False, EVERYTHING),
        (90, "fp64", MOST_PARAMETERS - 1, True, False, EVERYTHING),
        (80, "fp64", 100, True, True, {"CLIPS_NORM": True}),
    ],
)
def test_wide_models_spill_nothing_and_fuse_only_what_the_rule_fuses(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capability: int,
    dtype: str,
    features: int,
    bias: bool,
    single: bool,
    more: dict[str, int],
):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    compiled = Compiled.of(capability, dtype, features, bias, single, **more)
    assert [compiled.memory[name] for name in ("stack", "shared", "local")] == [0, 0, 0]
    assert ".local" not in compiled.ptx
    of_norms = {"div.rn", "sqrt.rn"} if compiled.clips_norm else set()
    assert {name.partition(".f")[0] for name in compiled.arithmetic} <= {
        "fma.rn",
        "add.rn",
        "sub.rn",
        "mul.rn",
    } | of_norms
    assert ".ftz" not in compiled.ptx
    assert ".approx" not in compiled.ptx


def test_small_models_are_stepped_two_a_thread():
    assert [block_of(parameters, 4) // THREADS for parameters in (1, 8, 9, 16)] == [2, 2, 1, 1]
    assert [block_of(parameters, 8) // THREADS for parameters in (1, 4, 5, 16)] == [2, 2, 1, 1]


@pytest.fixture
def one_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that says it has one GPU."""
    monkeypatch.setattr(devices, "gpus", lambda: 1)


@pytest.mark.parametrize(
    ("task", "device", "expected"),
    [
        (Task(line()), "auto", ("triton", "cuda:0")),
        (Task(line()), "cuda", ("triton", "cuda:0")),
        (Task(line()), "cpu", ("numba", "cpu")),
        (Task(linear(300, MOST_PARAMETERS - 1)), "auto", ("triton", "cuda:0")),
        (Task(linear(300, MOST_PARAMETERS)), "auto", ("torch", "cuda:0")),
        (Task(linear(300, MOST_PARAMETERS)), "cpu", ("numba", "cpu")),
        (Task(line(), loss="mae"), "auto", ("torch", "cuda:0")),
    ],
    ids=["auto", "cuda", "cpu", "as wide as triton takes", "wider", "wider on the CPU", "another loss"],
)
@pytest.mark.usefixtures("one_gpu")
def test_auto_on_a_machine_with_a_gpu(task: Task, device: str, expected: tuple[str, str]):
    chosen = choose(task, "auto", device)
    assert (chosen.name, chosen.device) == expected


@pytest.mark.usefixtures("one_gpu")
@pytest.mark.parametrize(
    ("task", "kernel", "device", "message"),
    [
        (
            Task(linear(300, 256)),
            "triton",
            "auto",
            "the triton kernel holds up to 256 parameters, not 257: use kernel torch",
        ),
        (Task(line()), "numba", "cuda", "the numba kernel runs on the CPU only, not on cuda:0: use kernel triton"),
        (Task(line()), "triton", "cpu", "the triton kernel needs a CUDA GPU: use kernel numba"),
        (Task(line()), "auto", "cuda:1", "device 'cuda:1' needs a CUDA GPU that torch can use; found 1"),
    ],
)
def test_what_does_not_go_together(task: Task, kernel: str, device: str, message: str):
    with pytest.raises(KernelUnavailable, match=re.escape(message)):
        choose(task, kernel, device)


@pytest.mark.cuda
@pytest.mark.parametrize("case", TRAIN_INPUTS, ids=lambda case: case.desc)
def test_named_case_on_a_gpu_equals_numba_on_the_cpu_bit_for_bit(case: TrainInput):
    result = case.train(kernel="triton", device="cuda")
    assert (result.kernel, result.device) == ("triton", "cuda:0")
    assert_same(result, case.train(kernel="numba"))


@pytest.mark.cuda
@pytest.mark.parametrize("case", TRAIN_INPUTS, ids=lambda case: case.desc)
def test_named_case_on_a_gpu_agrees_with_torch_there(case: TrainInput):
    """Bit for bit where cuBLAS has no sum to fuse or reorder: one feature, batches of one."""
    alone = case.task.features.shape[1] == 1 and case.kwargs.get("batch_size", 1) == 1
    assert_agrees = assert_same_training if alone else assert_close_training
    assert_agrees(case.train(kernel="triton", device="cuda"), case.train(kernel="reference", device="cuda"))


@pytest.mark.cuda
def test_auto_takes_the_gpu_and_gives_its_memory_back():
    import torch

    rows = Hyperparams(lr=[0.01] * 100_000)
    before = torch.cuda.memory_allocated()
    result = train(Task(line()), rows, epochs=20)
    assert (result.kernel, result.device) == ("triton", "cuda:0")
    assert torch.cuda.memory_allocated() == before
    assert_same_training(result, train(Task(line()), rows, epochs=20, device="cpu"))
