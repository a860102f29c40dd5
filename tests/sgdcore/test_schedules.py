"""Schedules: the learning rates and momenta of torch.optim.lr_scheduler, bit for bit."""

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sgdcore import Hyperparams, InvalidHyperparams, InvalidTraining, Recording, Schedule, Scheduler, Task, train
from sgdcore.rates import RateTable
from sgdcore.schedules import OPTIONS
from sgdcore.tasks import line
from tests.support.hypothesis_profiles import examples

ROWS = 40
SHARE = st.floats(0.01, 1)
SMALL = st.integers(1, 12)
STRATEGIES = {
    "constant": {"factor": SHARE, "total_iters": SMALL},
    "step": {"step_size": SMALL, "gamma": st.floats(0.1, 1.2)},
    "multistep": {"milestones": st.lists(SMALL, min_size=1, max_size=4), "gamma": st.floats(0.1, 1.2)},
    "exponential": {"gamma": st.floats(0.5, 1.2)},
    "linear": {"start_factor": SHARE, "end_factor": st.floats(0, 1), "total_iters": SMALL},
    "cosine": {"T_max": st.integers(1, 50), "eta_min": st.floats(0, 0.1)},
    "cosine_restarts": {"T_0": SMALL, "T_mult": st.integers(1, 3), "eta_min": st.floats(0, 0.1)},
    "polynomial": {"total_iters": st.integers(1, 50), "power": st.floats(0, 3)},
    "onecycle": {
        "max_lr": st.none() | SHARE,
        "total_steps": st.integers(ROWS, 60),
        "pct_start": st.floats(0.05, 0.9),
        "anneal_strategy": st.sampled_from(["cos", "linear"]),
        "cycle_momentum": st.booleans(),
        "base_momentum": SHARE,
        "max_momentum": SHARE,
        "div_factor": st.floats(1, 50),
        "final_div_factor": st.floats(1, 1e5),
        "three_phase": st.booleans(),
    },
}


@st.composite
def schedules(draw: st.DrawFn) -> Schedule:
    """Draw a schedule: of one kind, or several in sequence."""
    kinds = draw(st.lists(st.sampled_from([kind for kind in OPTIONS if kind != "onecycle"]), max_size=3))
    parts = [Scheduler(kind, **draw(st.fixed_dictionaries(STRATEGIES[kind]))) for kind in kinds or ["onecycle"]]
    starts = draw(
        st.lists(st.integers(1, ROWS - 1), min_size=len(parts) - 1, max_size=len(parts) - 1, unique=True).map(sorted)
    )
    return Schedule(*parts, milestones=tuple(starts))


def torchs(schedule: Schedule, lr: list[float], rows: int) -> list[tuple[list[float], float]]:
    """Return the learning rates of a row, one per parameter group, and the momentum, as torch's own scheduler sets."""
    groups = [{"params": [torch.zeros(1, requires_grad=True)], "lr": rate} for rate in lr]
    optimizer = torch.optim.SGD(groups, momentum=0.5)
    found = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's, of its own SequentialLR and of schedulers without steps
        scheduler = schedule.torch_scheduler(optimizer)
        for _ in range(rows):
            found.append(([group["lr"] for group in optimizer.param_groups], optimizer.param_groups[0]["momentum"]))
            optimizer.step()
            scheduler.step()
    return found


@given(
    schedule=schedules(),
    lr=st.lists(st.floats(1e-6, 10), min_size=1, max_size=3),
    cuts=st.sets(st.integers(1, ROWS - 1), max_size=3),
)
@examples(150, 5_000)
def test_every_row_is_torchs_to_the_last_bit(schedule: Schedule, lr: list[float], cuts: set[int]):
    rows = schedule.lasting(ROWS).rows(np.array(lr))
    parts = [rows.take(count) for count in np.diff([0, *sorted(cuts), ROWS]).tolist()]
    expected, momenta = zip(*torchs(schedule, lr, ROWS), strict=True)
    assert np.concatenate([rates for rates, _ in parts]).tolist() == list(expected)
    cycled = [np.full(len(rates), 0.5) if cycled is None else cycled for rates, cycled in parts]
    assert np.concatenate(cycled).tolist() == list(momenta)


LONG = [
    [Scheduler("linear", total_iters=400), Scheduler("cosine", T_max=300, eta_min=0.01), Scheduler("polynomial")],
    [Scheduler("cosine_restarts", T_0=300, T_mult=2), Scheduler("exponential", gamma=0.999)],
    [Scheduler("polynomial", total_iters=700, power=1.5)],
    [Scheduler("onecycle", total_steps=1200)],
]


@pytest.mark.parametrize("parts", LONG)
def test_rows_of_long_runs_are_torchs(parts: list[Scheduler]):
    schedule = Schedule(*parts, milestones=(400, 800)[: len(parts) - 1])
    expected = [rates for rates, _ in torchs(schedule, [0.1, 0.3], 1200)]
    assert schedule.rows(np.array([0.1, 0.3])).take(1200)[0].tolist() == expected


@pytest.mark.parametrize("kind", OPTIONS)
def test_every_kind_has_torchs_defaults(kind: str):
    required = {"step": {"step_size": 3}, "multistep": {"milestones": [3]}, "exponential": {"gamma": 0.9}}
    required |= {"cosine": {"T_max": 20}, "cosine_restarts": {"T_0": 4}, "onecycle": {"total_steps": 20, "max_lr": 0.3}}
    options = required.get(kind, {})
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1, momentum=0.5)
    plain = type(Schedule(Scheduler(kind, **options)).torch_scheduler(optimizer))(
        torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1, momentum=0.5), **options
    )
    rows = Schedule(Scheduler(kind, **options)).rows(np.array([0.1]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(20):
            assert rows.take(1)[0].tolist() == [plain.get_last_lr()]
            if plain.last_epoch + 1 < 20:
                plain.step()


def test_lengths_that_are_left_out_are_the_rest_of_the_run():
    schedule = Schedule(Scheduler("linear", total_iters=5), Scheduler("cosine"))
    assert schedule.milestones == (5,)
    assert schedule.lasting(50).schedulers[1]["T_max"] == 45
    assert Schedule(Scheduler("onecycle")).lasting(30).schedulers[0]["total_steps"] == 30


BAD = [
    (lambda: Scheduler("cosinus"), "kind of schedule must be one of constant, step"),
    (lambda: Scheduler("cosine", t_max=3), "cosine has no option 't_max': its options are T_max, eta_min"),
    (lambda: Scheduler("step"), "step needs step_size"),
    (lambda: Scheduler("step", step_size=2.5), "step: step_size must be a whole number >= 1, not 2.5"),
    (lambda: Scheduler("step", step_size=True), "step: step_size must be a whole number >= 1, not True"),
    (lambda: Scheduler("multistep", milestones=[0]), "milestones must be a list of whole numbers >= 1"),
    (lambda: Scheduler("linear", start_factor=0), "linear: start_factor must be above 0 and at most 1, not 0"),
    (lambda: Scheduler("linear", end_factor=1.5), "linear: end_factor must be from 0 to 1, not 1.5"),
    (lambda: Scheduler("exponential", gamma="fast"), "exponential: gamma must be a finite number, not 'fast'"),
    (lambda: Scheduler("exponential", gamma=float("nan")), "exponential: gamma must be a finite number"),
    (lambda: Scheduler("onecycle", anneal_strategy="log"), "anneal_strategy must be cos or linear, not 'log'"),
    (lambda: Scheduler("onecycle", three_phase=2), "three_phase must be true or false, not 2"),
    (lambda: Schedule(), "a schedule needs at least one scheduler"),
    (lambda: Schedule(Scheduler("linear"), interval="batch"), "interval must be epoch or step, not 'batch'"),
    (lambda: Schedule(Scheduler("linear"), Scheduler("onecycle")), "onecycle is a whole schedule"),
    (
        lambda: Schedule(Scheduler("exponential", gamma=1), Scheduler("cosine")),
        "exponential has no end: give milestones",
    ),
    (
        lambda: Schedule(Scheduler("linear"), Scheduler("cosine"), milestones=(0,)),
        "milestones must be 1 increasing rows",
    ),
    (
        lambda: Schedule(Scheduler("onecycle", total_steps=3)).lasting(4),
        "total_steps must be at least the run's 4, not 3",
    ),
    (lambda: Schedule(Scheduler("onecycle", pct_start=0.25)).lasting(4), "pct_start 0.25 of 4 steps must be more than"),
]


@pytest.mark.parametrize(("call", "message"), BAD, ids=[message for _, message in BAD])
def test_what_torch_rejects_or_cannot_compute_is_rejected(call, message: str):
    with pytest.raises(InvalidHyperparams, match=message.replace("(", r"\(")):
        call()


def test_tables_cover_the_run_in_any_parts():
    hyperparams = Hyperparams(
        lr=[0.1, 0.2, 0.1, 0.3],
        momentum=0.5,
        schedule=[Schedule(Scheduler("cosine")), None, Schedule(Scheduler("onecycle"), interval="step"), None],
        groups={"bias": {"lr": [0.01, 0.02, 0.1, 0.3]}},
    )
    whole = RateTable(hyperparams, 5, 0, 50).until(0, 50)
    table = RateTable(hyperparams, 5, 0, 50)
    parts = [table.until(a, b) for a, b in [(0, 7), (7, 20), (20, 50)]]
    np.testing.assert_array_equal(np.concatenate([part.lr for part in parts]), whole.lr)
    later = RateTable(hyperparams, 5, 20, 50).until(20, 50)
    np.testing.assert_array_equal(later.lr, whole.lr[20:])
    np.testing.assert_array_equal(later.momentum, whole.momentum[20:])
    assert whole.lr[:, 1, whole.which[1]].tolist() == [0.02] * 50


def test_a_table_by_epoch_has_a_row_per_epoch():
    rates = RateTable(Hyperparams(lr=0.1, schedule=Schedule(Scheduler("exponential", gamma=0.5))), 5, 0, 15).until(
        0, 15
    )
    assert rates.steps_per_row == 5
    assert rates.lr[:, 0, 0].tolist() == [0.1, 0.05, 0.025]


SCHEDULE = Schedule(Scheduler("linear", total_iters=3), Scheduler("cosine", T_max=9), interval="epoch")


@pytest.mark.parametrize("kernel", ["numba", "torch", "reference"])
@pytest.mark.parametrize("schedule", [SCHEDULE, Schedule(Scheduler("onecycle", total_steps=60), interval="step")])
def test_continuing_goes_on_with_the_schedule(kernel: str, schedule: Schedule):
    hyperparams = Hyperparams(lr=[0.05, 0.1], momentum=[0.5, 0.9], schedule=schedule)
    options = {"kernel": kernel, "record": Recording(spacing="all")}
    whole = train(Task(line()), hyperparams, epochs=12, **options)
    half = train(Task(line()), hyperparams, epochs=5, **options)
    both = train(Task(line()), hyperparams, epochs=7, start=half, **options)
    np.testing.assert_array_equal(both.params, whole.params)


def test_continuing_needs_the_length_of_a_schedule():
    hyperparams = Hyperparams(lr=0.05, schedule=Schedule(Scheduler("cosine")))
    half = train(Task(line()), hyperparams, epochs=5)
    with pytest.raises(InvalidTraining, match="cannot continue with a cosine schedule that takes the rest of the run"):
        train(Task(line()), hyperparams, epochs=5, start=half)
