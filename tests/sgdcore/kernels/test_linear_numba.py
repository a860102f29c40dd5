"""linear_numba: its compiled code is what it should be, and steps are counted right however they are cut."""

import dataclasses
import platform
import re
import subprocess
import sys
from itertools import product

import numpy as np
import pytest
from llvmlite.binding import get_host_cpu_features

from sgdcore import Dataset, Hyperparams, LinearModel, Recording, Schedule, Scheduler, Task, rates, train
from sgdcore.kernels.linear_numba import batches, kernel
from sgdcore.kernels.linear_numba.forms import BLOCK, DECAY, FEW, MOMENTUM, NESTEROV, Form
from sgdcore.kernels.linear_numba.kernel import CHUNK
from sgdcore.kernels.linear_numba.qr_blocks import EXTRA, blocks_of_rows
from sgdcore.kernels.linear_numba.steps import compile_steps
from sgdcore.kernels.simd.lanes import GROUP
from sgdcore.tasks import linear
from sgdcore.tasks.datasets import line
from tests.support.hypothesis_profiles import NIGHTLY
from tests.support.kernel_cases import (
    STATE,
    TrainInput,
    assert_close_training,
    assert_same,
    assert_same_bits,
    assert_same_state,
    assert_same_training,
)

KINDS = [0, DECAY, MOMENTUM, MOMENTUM | DECAY, MOMENTUM | NESTEROV, MOMENTUM | DECAY | NESTEROV]


def assembly_of_steps(form: Form, kind: int) -> str:
    """The machine code of a step function, compiled afresh: what comes from the cache has none."""
    return str(compile_steps.__wrapped__(form, kind, cache=False)._library.get_asm_str())


PACKED = [(1, "float32", "ps"), (3, "float64", "pd")]
if NIGHTLY:
    PACKED = [(features, *packed) for features in (1, 2, 3) for packed in (("float32", "ps"), ("float64", "pd"))]


@pytest.mark.parametrize(("features", "dtype", "packed"), PACKED)
@pytest.mark.parametrize("kind", KINDS)
def test_steps_are_packed_fused_multiply_adds_without_gathers(features: int, dtype: str, packed: str, kind: int):
    assembly = assembly_of_steps(Form(dtype, features, True, 1), kind)
    assert "gather" not in assembly
    if platform.machine() == "x86_64" and get_host_cpu_features().get("fma"):
        fused = re.findall(r"\bvfn?m(?:add|sub)\d+(\w\w)\b", assembly)
        rule = 1 + bool(kind & DECAY) + bool(kind & MOMENTUM) + bool(kind & NESTEROV)  # step, decay, buffer, Nesterov
        assert len(fused) >= rule * (features + 1)
        assert set(fused) == {packed}
        assert not re.search(r"\bv(?:mul|add|sub)s[sd]\b", assembly)


@pytest.mark.parametrize("features", [1, 2, 5, FEW, FEW + 1, 300])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_tiles_are_whole_vectors(features: int, dtype: str):
    form = Form(dtype, features, False, 1)
    assert 0 < form.lanes <= 512
    assert form.lanes % form.together == 0
    assert form.together % form.width == 0
    assert form.width % GROUP == 0


def cases_of(features: int, dtype: str, **arguments) -> TrainInput:
    """Trials of every kind of momentum and decay, several of which overflow at different steps."""
    rng = np.random.default_rng(features)
    values = rng.standard_normal((7, features + 1)).astype(dtype).astype(np.float64)
    hyperparams = {
        "lr": np.float32([0.01, 0.02, 0.05, 0.01, 0.6, 0.9, 3.0, 50.0, 0.7, 0.03]),
        "momentum": np.float32([0, 0.9, 0.5, 0.9, 0, 0.5, 0, 0, 0.9, 0.5]),
        "weight_decay": np.float32([0, 0, 0.1, 0.1, 0, 0.1, 0, 0, 0.1, 0.1]),
        "dampening": np.float32([0, 0.5, 0, 0, 0, 0, 0, 0, 0, 0.3]),
        "nesterov": [False, False, True, True, False, False, False, False, True, False],
    }
    task = Task(Dataset(values[:, :-1], values[:, -1]))
    return TrainInput("every kind", task, hyperparams, {"dtype": dtype, "start": np.ones(features + 1)} | arguments)


# (features, dtype, batch size): each value of one with both of another, since a form takes seconds to compile.
WIDTHS = [
    (features, dtype, batch_size)
    for number, features in enumerate([1, 2, 3, 5, 8])
    for dtype, batch_size in product(["float32", "float64"], [1, 2])
    if NIGHTLY or (dtype == "float32") == (batch_size == 1 + number % 2)
]
LANES = [
    *((1, "float32", 1), (1, "float64", 2), (3, "float32", 1), (3, "float64", 7), (8, "float32", 7)),
    *((8, "float64", 2), (20, "float32", 1), (20, "float64", 2), (20, "float32", 7)),
]
if NIGHTLY:
    LANES = list(product([1, 3, 8, 20], ["float32", "float64"], [1, 2, 7]))


def with_everything(features: int, dtype: str, batch_size: int) -> TrainInput:
    """Trials with schedules by step, by epoch and none, a group of the bias, and clipped gradients; some overflow."""
    case = cases_of(features, dtype, epochs=20, batch_size=batch_size, order="shuffled", groups={"bias": ["bias"]})
    by_step = Schedule(Scheduler("linear", total_iters=40), Scheduler("exponential", gamma=0.999), interval="step")
    hyperparams = {
        "lr": [0.02, 0.01, 0.05, 0.02, 0.01, 0.02],
        "momentum": 0.9,
        "weight_decay": [0.1, 0.1, 0.1, 0.1, 0.1, 1e12],
        "schedule": [by_step, Schedule(Scheduler("step", step_size=7)), None] * 2,
        "groups": {"bias": {"lr": [0.01, 0.02, 0.02, 0.01, 0.01, 0.02], "weight_decay": 0.0}},
        "clip_grad_norm": [0.5, 3, 1e3, np.inf, np.inf, 1],
        "clip_grad_value": [np.inf, np.inf, np.inf, 0.5, 2, np.inf],
    }
    return dataclasses.replace(case, hyperparams=hyperparams)


# One of each way of stepping: unrolled, by samples, by rows.
EVERYTHING = [(1, "float32", 1), (20, "float64", 2), (20, "float64", 5)]


@pytest.mark.parametrize(("features", "dtype", "batch_size"), EVERYTHING)
def test_schedules_groups_and_clipping_together(features: int, dtype: str, batch_size: int):
    case = with_everything(features, dtype, batch_size)
    expected = case.train(kernel="reference")
    assert expected.first_nonfinite_step[-1] >= 0
    assert len(set(expected.state.clipped_steps.tolist())) >= 4
    assert_close_training(case.train(kernel="numba"), expected)


@pytest.mark.parametrize(("features", "dtype", "batch_size"), EVERYTHING)
def test_schedules_groups_and_clipping_do_not_depend_on_neighbours_or_cuts(
    features: int, dtype: str, batch_size: int, monkeypatch: pytest.MonkeyPatch
):
    case = with_everything(features, dtype, batch_size)
    expected = case.train(kernel="numba", record=Recording(0))
    assert_same_state(case.train(kernel="numba", record=Recording(spacing="all"), threads=1), expected)
    begun = case.train(kernel="numba", epochs=3)
    assert_same_state(case.train(kernel="numba", epochs=17, start=begun), expected)
    monkeypatch.setattr(rates, "_ENTRIES", 12 * 11)  # 11 rows of 6 columns in 2 groups
    assert_same_state(case.train(kernel="numba"), expected)
    copies = 19
    many = {
        name: column if np.ndim(column) == 0 else np.repeat(column, copies)
        for name, column in case.hyperparams.items()
        if name not in ("schedule", "groups")
    }
    schedules = [schedule for schedule in case.hyperparams["schedule"] for _ in range(copies)]
    bias = {"lr": np.repeat(case.hyperparams["groups"]["bias"]["lr"], copies), "weight_decay": 0.0}
    crowd = dataclasses.replace(case, hyperparams=many | {"schedule": schedules, "groups": {"bias": bias}})
    together = crowd.train(kernel="numba").state
    for name in STATE:
        assert_same_bits(getattr(together, name), np.repeat(getattr(expected.state, name), copies, axis=0), name)


@pytest.mark.parametrize(("features", "dtype", "batch_size"), WIDTHS)
def test_every_kind_at_every_width_of_tile(features: int, dtype: str, batch_size: int):
    case = cases_of(features, dtype, epochs=20, batch_size=batch_size, order="shuffled")
    assert_same_training(case.train(kernel="numba"), case.train(kernel="reference"))


@pytest.mark.parametrize(("features", "dtype", "batch_size"), LANES)
def test_every_lane_of_a_tile_is_stepped_alike(features: int, dtype: str, batch_size: int):
    """Copies of the same trials, enough to fill a tile of each kind and begin another."""
    case = cases_of(features, dtype, epochs=20, batch_size=batch_size)
    copies = Form(dtype, features, True, 1).lanes + 1
    many = dataclasses.replace(
        case, hyperparams={name: np.repeat(values, copies) for name, values in case.hyperparams.items()}
    )
    alone, together = case.train(kernel="numba").state, many.train(kernel="numba").state
    for name in ("params", "momentum_buffers", "first_nonfinite_step", "peak", "peak_step"):
        np.testing.assert_array_equal(getattr(together, name), np.repeat(getattr(alone, name), copies, axis=0))


def test_points_do_not_change_peaks_and_stops():
    every = cases_of(1, "float32", epochs=CHUNK // 2)  # three chunks and a half
    results = [every.train(kernel="numba", record=Recording(spacing=s)) for s in ("log", "linear", "all")]
    expected = every.train(kernel="reference", record=Recording(points=0))
    stopped = expected.first_nonfinite_step
    assert len(set(stopped[stopped >= 0])) >= 2
    for result in results:
        for name in ("params", "first_nonfinite_step", "peak", "peak_step"):
            np.testing.assert_array_equal(getattr(result.state, name), getattr(expected.state, name))


@pytest.mark.parametrize("samples", [1, 8, 40])  # one, a rectangle, a triangle
def test_peaks_of_many_parameters_are_those_of_their_steps(samples: int):
    values = np.random.default_rng(samples).standard_normal((samples, 21))
    task = Task(Dataset(values[:, 1:], values[:, 0]))
    rows = Hyperparams(lr=[0.02, 0.01], momentum=0.9, dampening=[0.0, 0.5])
    options = {"batch_size": samples, "kernel": "numba"}
    state = train(task, rows, epochs=2 * CHUNK + 3, start=np.zeros(21), **options).state
    step = train(task, rows, epochs=1, start=np.zeros(21), **options)
    path = [step.state.start, step.params]
    while len(path) <= state.step:
        step = train(task, rows, epochs=1, start=step, **options)
        path.append(step.params)
    past = (np.array(path) - state.target) * state.direction
    steps = np.where(past.max(axis=0) > 0, past.argmax(axis=0), 0)
    np.testing.assert_array_equal(state.peak_step, steps)
    peaks = np.take_along_axis(np.array(path), steps[np.newaxis], axis=0)[0]
    np.testing.assert_array_equal(state.peak[steps > 0], peaks[steps > 0])
    assert len(set(steps[steps > 0].tolist())) > 1


@pytest.mark.parametrize("batch_size", [1, 3])
def test_a_second_process_compiles_nothing(batch_size: int):
    script = (
        "from sgdcore import *; from sgdcore.kernels.linear_numba import kernel, qr_blocks, steps\n"
        "from sgdcore.tasks.datasets import line\n"
        f"train(Task(line()), Hyperparams(lr=0.01), epochs=1, start=[0.0, 0.0], batch_size={batch_size})\n"
        "stats = [kernel._run_tiles.stats, qr_blocks._factorise.stats]\n"
        "compiled = steps.compile_steps\n"
        "form = steps.Form('float32', 1, True, *((1,) if BATCH == 1 else (0, 2)))\n"
        "print(sum(sum(s.cache_misses.values()) for s in stats), sum(stats[0].cache_hits.values()),\n"
        "      compiled.cache_info().misses, compiled(form, 0).cache_hits)"
    ).replace("BATCH", str(batch_size))
    train(Task(line()), Hyperparams(lr=0.01), epochs=1, start=[0.0, 0.0], batch_size=batch_size)
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["0", "1", "1", "1"]


@pytest.mark.parametrize(("size", "features"), [(1, 1), (3, 1), (3, 5), (5, 5), (40, 5), (9, 20), (30, 20)])
@pytest.mark.parametrize("block", [BLOCK, 40])
@pytest.mark.parametrize("triangular", [True, False])
def test_rows_have_the_gradient_of_their_batch(size: int, features: int, block: int, triangular: bool):
    rng = np.random.default_rng(size)
    design = np.column_stack([rng.standard_normal((50, features)) + 100, np.ones(50)])
    targets = rng.standard_normal(50) * 1e3
    batch = rng.permutation(50)[:size]
    padded = np.concatenate([batch, [-1, -1]])[np.newaxis]
    x, y, p = design[batch], targets[batch], rng.standard_normal(features + 1)
    steepest = np.linalg.svd(design)[2][0] if triangular else None
    columns = blocks_of_rows(design, targets, padded, block, steepest).reshape(-1, features + 1 + EXTRA, block)
    rows = np.moveaxis(columns, 1, 2).reshape(-1, features + 1 + EXTRA)
    factor, centre, scale = rows[:, :-2], rows[:, -2], rows[:, -1]
    if triangular:
        assert not np.tril(factor, -1).any()
        largest = [np.abs(side @ steepest).max() for side in (factor, x)]
        np.testing.assert_allclose(*largest)  # so that both overflow at the same step
    expected = 2 / size * x.T @ (x @ p - y)
    np.testing.assert_allclose(factor.T @ (scale * (factor @ p - centre)), expected, atol=1e-5)


@pytest.mark.parametrize("features", [2, 20])
@pytest.mark.parametrize("batch_size", [3, 7, 30])
def test_rows_by_stretches_change_no_bit(features: int, batch_size: int, monkeypatch: pytest.MonkeyPatch):
    rows = Hyperparams(lr=[0.01, 0.02, 5.0], momentum=[0, 0.9, 0.5], weight_decay=[0, 0.1, 0])
    task = Task(linear(30, features))
    options = {"epochs": 7, "batch_size": batch_size, "order": "shuffled", "seeds": [0, 1, 0]}
    expected = train(task, rows, record=Recording(20, "linear"), **options)
    monkeypatch.setattr(batches, "ROW_BYTES", 5_000)
    assert_same(train(task, rows, record=Recording(20, "linear"), **options), expected)


def test_a_full_batch_has_no_order():
    rows, task = Hyperparams(lr=[0.01, 0.02], momentum=0.9), Task(linear(30, 3))
    options = {"epochs": 20, "batch_size": 30, "start": np.zeros(4)}
    sequential = train(task, rows, **options)
    assert_same(train(task, rows, order="shuffled", seeds=[3, 4], **options), sequential)


def test_snapshots_that_fill_a_tiles_memory_change_no_bit():
    """More points than a tile keeps at a time, and trials that stop between them."""
    case = cases_of(1, "float32", epochs=300)
    every = case.train(kernel="numba", record=Recording(spacing="all"))
    some = case.train(kernel="numba", record=Recording(40))
    assert len(every.steps) > kernel.recording.SNAPSHOT_BYTES // (4 * 2 * Form("float32", 1, True, 1).lanes)
    np.testing.assert_array_equal(some.loss, every.loss[:, some.steps])
    np.testing.assert_array_equal(some.curves.path, every.curves.path[:, some.steps])


def test_features_that_are_all_zero_have_no_steepest_direction():
    task = Task(Dataset(np.zeros((5, 1)), np.arange(5.0)), LinearModel(bias=False))
    result = train(task, Hyperparams(lr=0.1, weight_decay=[0, 0.5]), epochs=1, batch_size=5, start=[2.0])
    np.testing.assert_allclose(result.params[:, 0], [2.0, 2.0 * (1 - 0.1 * 0.5)], rtol=1e-6)
