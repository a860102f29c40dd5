"""Networks: the torch kernel trains any module as torch.optim.SGD does, and refuses what a pack cannot hold."""

import re
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

from sgdcore import (
    Dataset,
    Hyperparams,
    InvalidTask,
    MlpModel,
    ModuleModel,
    Recording,
    Schedule,
    Scheduler,
    Task,
    judge,
    train,
)
from sgdcore.kernels.module_torch import batched, functional, traced
from sgdcore.kernels.module_torch import kernel as torch_kernel
from sgdcore.tasks.losses import Loss
from tests.support import network_modules
from tests.support.kernel_cases import ALL_KINDS, EVERYTHING, assert_same

HERE = "tests.support.network_modules"
RNG = np.random.default_rng(0)
INPUTS = RNG.standard_normal((22, 2))
DATA = Dataset(INPUTS, np.sin(INPUTS[:, 0]) + INPUTS[:, 1] ** 2)
of_every_kind = pytest.mark.parametrize(
    "kinds", [ALL_KINDS, EVERYTHING], ids=["plain", "scheduled, in groups, clipped"]
)
BOUND = {"float32": 1e-5, "float64": 1e-12}


def module(name: str, **arguments: Any) -> Task:
    return Task(DATA, ModuleModel(f"{HERE}:{name}", arguments))


def run(task: Task, kernel: str = "torch", **kwargs: Any):
    options = {"epochs": 40, "batch_size": 5, "order": "shuffled", "seeds": [0, 1, 2, 0, 1], "threads": 1} | kwargs
    given = options.pop("hyperparams", ALL_KINDS)
    if "groups" in given:
        options["groups"] = {"bias": ["*.bias"]}
    return train(task, Hyperparams(**given), kernel=kernel, **options)


def relative(ours: np.ndarray, theirs: np.ndarray) -> float:
    return float((np.abs(ours - theirs).max(axis=-1) / np.abs(theirs).max(axis=-1)).max())


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("name", "arguments", "batch_size"),
    [
        ("small", {}, 5),
        ("normalised", {}, 5),
        ("normalised", {"layer": "BatchNorm1d", "track_running_stats": False}, 11),
        ("Fourier", {}, 5),
        ("Tied", {}, 5),
        ("Scaled", {}, 5),
    ],
    ids=["mlp", "layer norm", "batch norm of the batch", "fixed buffer", "tied and frozen", "of no dimension"],
)
def test_a_module_is_trained_as_torch_trains_it_trial_by_trial(name, arguments, batch_size, dtype):
    task = module(name, **arguments)
    options = {"dtype": dtype, "batch_size": batch_size, "epochs": 4 * batch_size, "record": Recording(20)}
    ours, theirs = run(task, **options), run(task, "reference", **options)
    assert ours.state.step >= 88
    assert not (theirs.first_nonfinite_step >= 0).any()
    assert relative(ours.params, theirs.params) < BOUND[dtype]
    assert relative(ours.state.momentum_buffers[1:], theirs.state.momentum_buffers[1:]) < 50 * BOUND[dtype]
    np.testing.assert_allclose(ours.loss, theirs.loss, rtol=20 * BOUND[dtype])
    np.testing.assert_allclose(ours.objective, theirs.objective, rtol=20 * BOUND[dtype])


def user_script(make, inputs, targets, arguments, seed, epochs, batch_size):
    """What a user of torch writes; nothing of sgdcore in it."""
    torch.manual_seed(seed)
    net = make()
    x, y = torch.tensor(inputs, dtype=torch.float32), torch.tensor(targets, dtype=torch.float32)
    optimizer = torch.optim.SGD(net.parameters(), **arguments)
    for _ in range(epochs):
        for first in range(0, len(y), batch_size):
            optimizer.zero_grad()
            nn.functional.l1_loss(net(x[first : first + batch_size])[:, 0], y[first : first + batch_size]).backward()
            optimizer.step()
    return torch.cat([p.detach().flatten() for p in net.parameters()]).numpy()


@pytest.mark.parametrize("kernel", ["torch", "reference"])
def test_equals_a_torch_script(kernel):
    arguments = {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.01}
    expected = [user_script(network_modules.small, INPUTS, DATA.targets, arguments, seed, 9, 5) for seed in (0, 7)]
    task = Task(DATA, ModuleModel(network_modules.small), "mae")
    both = Hyperparams(**{name: [value] * 2 for name, value in arguments.items()})
    result = train(task, both, epochs=9, batch_size=5, seeds=[0, 7], kernel=kernel)
    np.testing.assert_allclose(result.params, expected, rtol=1e-5, atol=1e-6)


def scheduled_script(inputs, targets, make_scheduler, by_step, limit, seed, epochs, batch_size):
    """What a user of torch writes who schedules lr, clips, and does not decay biases; nothing of sgdcore in it."""
    torch.manual_seed(seed)
    net = network_modules.small(activation="ReLU")
    x, y = torch.tensor(inputs, dtype=torch.float32), torch.tensor(targets, dtype=torch.float32)[:, None]
    biases = [p for name, p in net.named_parameters() if name.endswith(".bias")]
    others = [p for name, p in net.named_parameters() if not name.endswith(".bias")]
    optimizer = torch.optim.SGD(
        [{"params": others, "weight_decay": 0.1}, {"params": biases, "lr": 0.02}], lr=0.05, momentum=0.9
    )
    scheduler, clipped = make_scheduler(optimizer), 0
    for _ in range(epochs):
        for first in range(0, len(y), batch_size):
            optimizer.zero_grad()
            nn.functional.mse_loss(net(x[first : first + batch_size]), y[first : first + batch_size]).backward()
            clipped += int(nn.utils.clip_grad_norm_(net.parameters(), limit) > limit)
            optimizer.step()
            if by_step:
                scheduler.step()
        if not by_step:
            scheduler.step()
    return torch.cat([p.detach().flatten() for p in net.parameters()]).numpy(), clipped


@pytest.mark.parametrize(
    ("kernel", "model"),
    [
        ("numba", MlpModel((3,))),
        ("torch", MlpModel((3,))),
        ("torch", ModuleModel(f"{HERE}:small", {"activation": "ReLU"})),
        ("reference", MlpModel((3,))),
    ],
    ids=["mlp, numba", "mlp, torch", "module, torch", "mlp, reference"],
)
@pytest.mark.parametrize(
    ("schedule", "make_scheduler"),
    [
        (Schedule(Scheduler("cosine", T_max=9)), lambda optimizer: lr_scheduler.CosineAnnealingLR(optimizer, T_max=9)),
        (
            Schedule(Scheduler("onecycle"), interval="step"),
            lambda optimizer: lr_scheduler.OneCycleLR(optimizer, max_lr=[0.05, 0.02], total_steps=45),
        ),
    ],
    ids=["cosine by epoch", "onecycle by step"],
)
def test_schedules_groups_and_clipping_equal_a_torch_script(kernel, model, schedule, make_scheduler):
    by_step, limit = schedule.interval == "step", 2.0
    scripts = [scheduled_script(INPUTS, DATA.targets, make_scheduler, by_step, limit, seed, 9, 5) for seed in (0, 7)]
    both = Hyperparams(
        lr=[0.05] * 2,
        momentum=0.9,
        weight_decay=0.1,
        clip_grad_norm=limit,
        schedule=schedule,
        groups={"bias": {"lr": 0.02, "weight_decay": 0.0}},
    )
    options = {"epochs": 9, "batch_size": 5, "seeds": [0, 7], "groups": {"bias": ["*.bias"]}}
    result = train(Task(DATA, model), both, kernel=kernel, **options)
    assert [0 < clipped < 45 for _, clipped in scripts] == [True, True]
    np.testing.assert_array_equal(result.state.clipped_steps, [clipped for _, clipped in scripts])
    np.testing.assert_allclose(result.params, [params for params, _ in scripts], rtol=1e-5, atol=1e-6)


def test_an_mlp_is_torchs_sequential():
    task = Task(DATA, MlpModel((3, 2), "gelu"))
    torch.manual_seed(5)
    net = nn.Sequential(nn.Linear(2, 3), nn.GELU(), nn.Linear(3, 2), nn.GELU(), nn.Linear(2, 1))
    start = train(task, Hyperparams(lr=0.1), epochs=0, seeds=5)
    expected = torch.cat([p.detach().flatten() for p in net.parameters()]).numpy()
    np.testing.assert_array_equal(start.params[0], expected)
    outputs = net(torch.tensor(INPUTS, dtype=torch.float32))[:, 0].double()
    loss = nn.functional.mse_loss(outputs, torch.tensor(np.float32(DATA.targets)).double())
    assert start.loss[0, 0] == pytest.approx(loss.item(), rel=1e-6)
    assert task.parameter_names[:3] == ("0.weight.0.0", "0.weight.0.1", "0.weight.1.0")
    assert task.parameter_names[-3:] == ("4.weight.0", "4.weight.1", "4.bias")
    assert len(task.parameter_names) == start.params.shape[1]


@of_every_kind
def test_trials_do_not_depend_on_the_packs(kinds, monkeypatch):
    task = module("small")
    options = {"hyperparams": kinds, "dtype": "float64", "epochs": 12}
    whole = run(task, **options)
    monkeypatch.setattr(torch_kernel, "CPU_TRIALS", 2)
    parts = run(task, **options)
    np.testing.assert_allclose(parts.params, whole.params, rtol=1e-12)
    np.testing.assert_allclose(parts.loss, whole.loss, rtol=1e-12)
    np.testing.assert_array_equal(parts.state.clipped_steps, whole.state.clipped_steps)
    assert whole.state.clipped_steps.any() == (kinds is EVERYTHING)


@of_every_kind
def test_going_on_equals_one_longer_run_bit_for_bit(kinds):
    task, options = module("small"), {"hyperparams": kinds, "record": Recording(spacing="all")}
    half = run(task, **options, epochs=3)
    on, whole = run(task, **options, epochs=4, start=half), run(task, **options, epochs=7)
    np.testing.assert_array_equal(on.params, whole.params)
    np.testing.assert_array_equal(on.state.clipped_steps, whole.state.clipped_steps)
    np.testing.assert_array_equal(on.loss, whole.loss[:, half.state.step :])


def test_trials_that_overflow_stop_where_torchs_do():
    task = Task(DATA, ModuleModel(network_modules.small, {"activation": "ReLU"}))
    hyperparams = Hyperparams(lr=[1e12, 0.01, 1e38, 1e20])
    ours, theirs = (
        train(task, hyperparams, epochs=4, batch_size=8, seeds=1, kernel=kernel) for kernel in ("torch", "reference")
    )
    assert (theirs.first_nonfinite_step >= 0).tolist() == [True, False, True, True]
    np.testing.assert_array_equal(ours.first_nonfinite_step, theirs.first_nonfinite_step)
    np.testing.assert_array_equal(np.isnan(ours.loss), np.isnan(theirs.loss))
    np.testing.assert_array_equal(np.isfinite(ours.params), np.isfinite(theirs.params))
    assert judge(ours).verdict.tolist() == ["diverged", judge(theirs).verdict[1], "diverged", "diverged"]


@pytest.mark.parametrize("kernel", ["torch", "reference"])
def test_parts_that_are_made_for_evaluation_stay_so(kernel: str):
    """Transfer learning's usual form: frozen statistics, and a dropout that is switched off."""
    task = Task(DATA.split(0.3), ModuleModel(network_modules.Frozen))
    ours = train(task, Hyperparams(lr=[0.05]), epochs=3, batch_size=8, kernel=kernel)
    model = network_modules.Frozen()
    nn.utils.vector_to_parameters(torch.from_numpy(ours.state.start[0]), model.linear.parameters())
    optimizer = torch.optim.SGD(model.linear.parameters(), lr=0.05)
    features, targets = (torch.from_numpy(np.float32(a)) for a in (task.features, task.dataset.targets))
    for _ in range(3):
        for first in range(0, len(targets), 8):
            optimizer.zero_grad()
            batch = slice(first, first + 8)
            nn.functional.mse_loss(model(features[batch])[:, 0], targets[batch]).backward()
            optimizer.step()
    expected = nn.utils.parameters_to_vector(model.linear.parameters()).detach()
    np.testing.assert_allclose(ours.params[0], expected, rtol=1e-5)


def test_a_held_out_set_is_recorded():
    task = Task(DATA.split(0.3), MlpModel((3,)), "huber", 0.7)
    ours, theirs = run(task), run(task, "reference")
    assert ours.curves.validation_loss is not None
    np.testing.assert_allclose(ours.curves.validation_loss, theirs.curves.validation_loss, rtol=1e-4)
    np.testing.assert_allclose(ours.loss, theirs.loss, rtol=1e-4)


def test_the_path_is_recorded_where_parameters_are_few():
    small = run(Task(DATA, MlpModel((3,))), record=Recording(spacing="all"))
    assert small.curves.path.shape == (5, 201, 13)
    np.testing.assert_array_equal(small.curves.path[:, -1], small.params)
    assert run(Task(DATA, MlpModel((4,)))).curves.path is None


def test_nothing_is_known_of_the_minimum():
    result = run(Task(DATA, MlpModel((3,))))
    assert np.isnan(result.minimum).all()
    verdicts = judge(result)
    assert np.isnan(verdicts.overshoot_percent).all()
    assert (verdicts.overshoot_parameter == -1).all()
    # The best of each weight decay has by definition converged.
    objective = result.objective
    for decay in np.unique(result.weight_decay):
        trials = np.flatnonzero(result.weight_decay == decay)
        best = trials[np.argmin(objective[trials].min(axis=1))]
        if objective[best].argmin() == objective.shape[1] - 1:
            assert verdicts.verdict[best] == "converged"


@of_every_kind
def test_compiled_steps_do_the_same(kinds):
    from torch._dynamo.utils import counters  # here, because it takes seconds

    task = Task(DATA, MlpModel((3,), "tanh"))
    options = {"hyperparams": kinds, "epochs": 3, "batch_size": 11, "seeds": 0, "order": "sequential"}
    before = counters["stats"]["unique_graphs"]
    compiled, eager = run(task, compile=True, **options), run(task, **options)
    assert counters["stats"]["unique_graphs"] == before + 1  # of all steps
    np.testing.assert_allclose(compiled.params, eager.params, rtol=1e-5)
    np.testing.assert_array_equal(compiled.state.clipped_steps, eager.state.clipped_steps)


def test_training_leaves_torch_as_it_was():
    random, threads, dtype = torch.random.get_rng_state(), torch.get_num_threads(), torch.get_default_dtype()
    run(module("small"), dtype="float64", threads=1)
    assert torch.equal(torch.random.get_rng_state(), random)
    assert (torch.get_num_threads(), torch.get_default_dtype()) == (threads, dtype)


def test_one_trial_and_none():
    task = module("small")
    for kernel in ("numba", "torch"):
        assert len(train(task, Hyperparams(lr=[]), epochs=2, kernel=kernel)) == 0
    one = train(task, Hyperparams(lr=0.1), epochs=2, kernel="torch")
    two = train(task, Hyperparams(lr=[0.1, 0.1]), epochs=2, kernel="torch")
    np.testing.assert_allclose(two.params, np.repeat(one.params, 2, axis=0), rtol=1e-6)
    assert_same(train(task, Hyperparams(lr=0.1), epochs=2, kernel="torch"), one)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("dropout", {}, "it draws random numbers in training"),
        ("normalised", {"layer": "BatchNorm1d"}, r"training changes its buffer '1.running_mean'; running statistics"),
        ("Fourier", {"fixed": False}, "'frequencies' is random but not trained"),
        ("Unused", {}, "its parameter 'spare.weight' does not affect the output"),
        ("two_outputs", {}, r"its output for a batch of 2 must be \(2, 1\) or \(2,\), not \(2, 2\)"),
        ("nothing_to_train", {}, "it has no trainable parameters"),
        ("not_a_module", {}, "the factory must return a torch.nn.Module, not int"),
        ("small", {"width": 3}, r"the factory raised TypeError: small\(\) got an unexpected keyword argument 'width'"),
        ("nowhere", {}, "it cannot be imported: AttributeError"),
        ("torch", {}, "it must be a callable, not module"),
    ],
)
def test_what_a_pack_cannot_hold_is_refused(name, arguments, message):
    with pytest.raises(InvalidTask, match=message):
        run(module(name, **arguments))


def test_a_short_last_batch_that_a_module_cannot_take_is_refused():
    task = module("normalised", layer="BatchNorm1d", track_running_stats=False)
    with pytest.raises(InvalidTask, match="it fails on a batch of 1: ValueError: Expected more than 1 value"):
        run(task, batch_size=7)


@pytest.mark.parametrize("factory", ["nowhere_at_all:x", "nocolon", ":x", "torch:"])
def test_a_path_that_leads_nowhere_is_refused(factory):
    with pytest.raises(InvalidTask, match=r"cannot be imported|it must have the form package\.module:callable"):
        run(Task(DATA, ModuleModel(factory)))


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        ("os:system", "standard library has no networks"),
        ("shutil:rmtree", "standard library has no networks"),
        ("builtins:exec", "standard library has no networks"),
        (f"{HERE}:torch.os.system", "it must be a subclass of torch.nn.Module or a function of your own"),
        (f"{HERE}:torch.os.path.join", "it must be a subclass of torch.nn.Module"),
        (f"{HERE}:Path", "it must be a subclass of torch.nn.Module"),
        (f"{HERE}:remove", "it must be a subclass of torch.nn.Module"),
    ],
)
def test_what_makes_no_networks_is_not_called(factory, message):
    with pytest.raises(InvalidTask, match=message):
        run(Task(DATA, ModuleModel(factory, {"command": "touch ran"})))


@pytest.mark.parametrize("name", ["half", "made", "cached", "Small.of", "maker"])
def test_what_makes_networks_in_other_ways_is_called(name):
    assert np.isfinite(run(module(name)).loss).all()


def test_torchs_own_modules_may_be_named():
    assert np.isfinite(
        run(Task(DATA, ModuleModel("torch.nn:Linear", {"in_features": 2, "out_features": 1}))).loss
    ).all()


def test_the_digest_of_a_module_is_that_of_its_file(tmp_path, monkeypatch):
    file = tmp_path / "fresh_module.py"
    file.write_text("def make():\n    return None\n")
    monkeypatch.syspath_prepend(tmp_path)
    model = ModuleModel("fresh_module:make")
    before = model.source_digest
    file.write_text("def make():\n    return 1\n")
    assert len(before) == 64
    assert model.source_digest != before
    assert ModuleModel(len).source_digest == ""


class Drifting(nn.Module):
    """Does something else at every call, which a recorded graph would not."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.calls = nn.Linear(2, 1), 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return self.linear(x) * (1 + self.calls % 2)


def recording_after(calls: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_PLAIN_CALLS", "_FIRST_CALLS"):
        monkeypatch.setattr(traced, name, calls)


@pytest.mark.parametrize("name", ["small", "normalised", "Fourier", "Tied", "Scaled"])
def test_a_recorded_step_has_the_bits_of_the_plain_one(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    results = []
    for calls in (10**9, 2):
        recording_after(calls, monkeypatch)
        functional._unused.cache_clear()  # networks that have recorded nothing yet
        results.append(run(module(name), record=Recording(20)))
    plain, recorded = results
    np.testing.assert_array_equal(recorded.params, plain.params)
    np.testing.assert_array_equal(recorded.loss, plain.loss)


def test_a_module_that_a_graph_does_not_repeat_is_not_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    recording_after(2, monkeypatch)
    net = functional.Network(ModuleModel(Drifting), 2, "float32", "cpu")
    gradient = functional.gradients(net, functional.loss_function(Loss("mse")), own_samples=False)
    features, targets = torch.from_numpy(INPUTS[:5]).float(), torch.ones(5)
    found = [gradient(torch.ones(1, 3), features, targets) for _ in range(6)]
    assert torch.equal(found[0], found[2])
    assert not torch.equal(found[2], found[3])


@pytest.mark.parametrize("arguments", [{}, {"layer": "BatchNorm1d", "track_running_stats": False}])
def test_losses_do_not_depend_on_the_blocks_that_they_are_summed_in(
    arguments: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A module that looks at its whole batch is evaluated on the whole set."""
    task = module("normalised", **arguments)
    whole = run(task, dtype="float64", epochs=3, batch_size=11)
    monkeypatch.setattr(torch_kernel, "_BLOCK_BYTES", 1000)
    blocks = run(task, dtype="float64", epochs=3, batch_size=11)
    np.testing.assert_allclose(blocks.loss, whole.loss, rtol=1e-12)
    np.testing.assert_allclose(blocks.loss, run(task, "reference", dtype="float64", epochs=3, batch_size=11).loss)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("name", "is_known"),
    [("small", True), ("normalised", True), ("Skipping", True), ("Varied", True), ("Fourier", False), ("Tied", False)],
)
def test_modules_of_known_operations_are_batched(name: str, is_known: bool, dtype: str) -> None:
    net = functional.Network(ModuleModel(f"{HERE}:{name}"), 2, dtype, "cpu")
    known = batched.batched(net)
    assert (known is not None) == is_known
    if known is None:
        return
    made = torch.cat([p.detach().flatten() for p in net.module.parameters() if p.requires_grad])
    params = made * torch.linspace(0.5, 1.5, 3, dtype=made.dtype)[:, None]
    features, targets = (torch.from_numpy(a).to(made.dtype) for a in (INPUTS, DATA.targets))
    for name in ("mse", "mae", "huber", "log_cosh", "quantile"):
        loss = Loss(name, huber_delta=0.7, quantile=0.3)  # type: ignore[arg-type]
        function = functional.loss_function(loss)
        programs = batched.Programs(known, params, loss)
        expected = functional.gradients(net, function, own_samples=False).function(params, features, targets)
        with torch.no_grad():
            torch.testing.assert_close(programs.gradients(features, targets), expected)
            losses = functional.summed_losses(net, function).function(params, features, targets)
            torch.testing.assert_close(programs.summed_losses(params, features, targets), losses)


class Detached(nn.Module):
    """Trains its first layer not at all, which the graph does not show."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.output = nn.Linear(2, 3), nn.LayerNorm(3), nn.Linear(3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            x = self.first(x)
        return self.output(torch.relu(self.norm(x)))


def test_what_a_graph_does_not_show_is_not_batched() -> None:
    net = functional.Network(ModuleModel(Detached), 2, "float32", "cpu")
    assert batched.batched(net) is None


def test_packs_trained_at_once_have_the_bits_of_packs_in_turn() -> None:
    rows = Hyperparams(lr=np.geomspace(1e-3, 0.1, 3 * torch_kernel.CPU_TRIALS + 5), momentum=0.9)
    one, several = (
        train(module("small"), rows, epochs=3, batch_size=5, kernel="torch", threads=threads) for threads in (1, 3)
    )
    np.testing.assert_array_equal(several.params, one.params)
    np.testing.assert_array_equal(several.loss, one.loss)


def test_an_error_in_one_pack_ends_all() -> None:
    def unevaluated() -> nn.Module:
        return network_modules.Unevaluated()

    rows = Hyperparams(lr=np.geomspace(1e-3, 0.1, 100))
    with pytest.raises(RuntimeError, match="no evaluation today"):
        train(Task(DATA, ModuleModel(unevaluated)), rows, epochs=3, kernel="torch", threads=3)


@pytest.mark.parametrize("place", ["no_such_folder.nets", "no_such_module"])
def test_a_module_that_is_not_found_says_where_it_was_looked_for(place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        InvalidTask, match=re.escape(f"neither in the working directory ({tmp_path}) nor on PYTHONPATH")
    ):
        run(Task(DATA, ModuleModel(f"{place}:make")))


@pytest.mark.parametrize("kernel", ["torch", "reference"])
def test_data_that_cannot_be_written_are_trained_on(kernel: str) -> None:
    inputs, targets = INPUTS.copy(), DATA.targets.copy()
    inputs.flags.writeable = targets.flags.writeable = False
    sealed = Task(Dataset(inputs, targets, validation=Dataset(inputs, targets)), ModuleModel(f"{HERE}:small"))
    found = run(sealed, kernel, dtype="float64", epochs=1)
    np.testing.assert_array_equal(found.params, run(module("small"), kernel, dtype="float64", epochs=1).params)
