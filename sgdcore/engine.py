"""train(), the entry point of the engine: it checks its arguments, picks the kernel and returns Trajectories."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sgdcore.batches import Order, blocks, steps_per_epoch
from sgdcore.counted_steps import counted
from sgdcore.early_stopping import EarlyStopping, Patience
from sgdcore.errors import InvalidTraining
from sgdcore.hyperparams import Hyperparams
from sgdcore.kernels.base import OnSteps, Problem, Resources, Segment
from sgdcore.kernels.dispatch import Choice, choose
from sgdcore.parameter_groups import GroupPatterns, group_of
from sgdcore.rates import RateTable, check_schedules, with_cycled_momentum
from sgdcore.recording import ListedSteps, Recording
from sgdcore.run_start import empty_curves, initial_state, objective_minima
from sgdcore.tasks.task import Task, goals, rounded
from sgdcore.trajectories import Curves, EarlyStops, State, Trajectories

Dtype = Literal["float32", "float64"]
_Samples = tuple[NDArray[Any], NDArray[Any]]


def train(
    task: Task,
    hyperparams: Hyperparams,
    *,
    epochs: int,
    batch_size: int = 1,
    order: Order = "sequential",
    dtype: Dtype = "float32",
    seeds: ArrayLike = 0,
    start: ArrayLike | Trajectories | None = None,
    record: Recording | ListedSteps | None = None,
    groups: GroupPatterns | None = None,
    early_stopping: EarlyStopping | EarlyStops | None = None,
    kernel: str = "auto",
    device: str = "auto",
    threads: int | None = None,
    compile: bool = False,
    on_steps: OnSteps | None = None,
) -> Trajectories:
    """Train T trials exactly as torch.optim.SGD would, each with its own hyperparameters.

    Args:
        task: the data set, model and loss.
        hyperparams: T rows.
        epochs: passes over the training set, >= 0; one pass is ceil(n / batch_size) steps.
        batch_size: samples per step; the last batch of an epoch can be shorter.
        order: ``sequential``, or ``shuffled``: a permutation per epoch drawn from the trial's seed, the same as from a
            torch DataLoader whose generator has this seed.
        dtype: ``float32`` or ``float64``, for data, parameters and arithmetic.
        seeds: one for all trials or (T,); used for shuffling and for torch's initialisation.
        start: None: the model's own initialisation by seed. (P,) or (T, P): start values, rounded to dtype.
            Trajectories: continue from their final state, if needed with a different lr; two consecutive runs equal
            one longer run bit for bit.
        record: which steps to keep; by default 64 on a log scale.
        groups: the parameter groups of ``hyperparams.groups``: by name, patterns of the names of torch's tensors, as in
            ``{"bias": ["bias", "*.bias"]}``. Parameters in no group have the hyperparameters of ``hyperparams`` itself.
        early_stopping: the rule by which single trials stop early; every trial that does not overflow then ends with
            the parameters of its best recorded point. EarlyStops: stop where the trials of another run did, whatever
            the metric. A run with early stopping cannot be continued.
        kernel: ``auto``; ``numba`` (CPU) and ``triton`` (CUDA) for models linear in their parameters with mse, one
            target and no weights; ``numba`` also for perceptrons on the CPU, with any loss but gaussian_nll: mlp models
            (except gelu) and modules whose graph is Linear layers with relu, tanh, sigmoid or silu between them;
            ``torch`` for any model on CPU or CUDA; ``reference``: torch.optim.SGD itself, trial by trial.
        device: ``auto`` (the first GPU, else the CPU), ``cpu``, ``cuda`` or ``cuda:N``.
        threads: CPU threads, >= 1; all cores by default. The numba kernels' results do not depend on it or on the
            other trials, not even by one bit; the torch kernel's sums do, within rounding.
        compile: use torch.compile for the torch kernel's steps. It takes about half a minute and pays off in long runs.
            With early stopping it is done again when trials leave a pack.
        on_steps: called while training with the number of steps done since the last call, summed over trials, from any
            thread but one at a time. The sum of all calls is T times the steps of the run.

    Returns:
        Trajectories: a trial whose parameters overflow stops at that step; this is a result, not an error.

    Raises:
        InvalidTraining: arguments out of range or of the wrong shape.
        InvalidTask: data that are not finite in dtype, or a module that cannot be trained.
        KernelUnavailable: a kernel or device that does not exist here or does not support this task.

    Example:
        >>> task = Task(line())
        >>> result = train(task, Hyperparams(lr=[0.03, 0.05], momentum=0.9), epochs=20, start=[0.0, 0.0])
        >>> result.loss[:, -1]
    """
    _check(epochs, batch_size, order, dtype, threads)
    seeds = _seeds(seeds, len(hyperparams))
    _check_range(hyperparams, dtype)
    chosen = choose(task, kernel, device)
    problem = make_problem(task, dtype, group_of(task, groups or {}, tuple(hyperparams.groups)))
    _check_module(task, dtype, batch_size)
    per_epoch = steps_per_epoch(task.samples, batch_size)
    state = initial_state(task, problem, hyperparams, start, seeds, dtype)
    rule = _early_stopping(early_stopping, problem, len(hyperparams))
    if isinstance(start, Trajectories):
        _check_continuation(start, hyperparams, per_epoch)
        if rule is not None or start.early_stops is not None:
            raise InvalidTraining("cannot continue with early stopping: the state is not that of the best point")
    epochs_done = state.step // per_epoch
    check_schedules(hyperparams, per_epoch, (epochs_done + epochs) * per_epoch, continued=state.step > 0)
    given, hyperparams = hyperparams, with_cycled_momentum(hyperparams)
    ahead = range(epochs_done, epochs_done + epochs)
    steps = (record or Recording()).steps(state.step, ahead.stop * per_epoch)
    curves = empty_curves(problem, hyperparams, state, steps)
    resources = Resources(chosen.device, threads or len(os.sched_getaffinity(0)), compile)
    run = _Run(problem, order, batch_size, ahead, chosen, resources, on_steps)
    stops = None if rule is None else EarlyStops.none(len(hyperparams))
    orders = np.zeros_like(seeds) if order == "sequential" else seeds
    drawn = _distinct(orders)[0]
    if len(drawn) <= 1 or chosen.mixes_orders:
        stops = run(hyperparams, state, curves, orders, rule)
    else:
        for seed in drawn:
            trials = np.flatnonzero(orders == seed)
            part, part_curves = state.take(trials), curves.like(len(trials))
            own = rule.take(trials) if isinstance(rule, EarlyStops) else rule
            part_stops = run(hyperparams[trials], part, part_curves, orders[trials], own)
            state.put(trials, part)
            curves.put(trials, part_curves)
            if stops is not None and part_stops is not None:
                stops.put(trials, part_stops)
    state = replace(state, step=ahead.stop * per_epoch)
    for group, h in enumerate((hyperparams, *hyperparams.groups.values())):  # torch keeps no buffer without momentum
        state.momentum_buffers[np.ix_(h.momentum == 0, problem.group_of == group)] = 0
    return Trajectories(
        parameter_names=task.parameter_names,
        hyperparams=given,
        steps_per_epoch=per_epoch,
        curves=curves,
        state=state,
        minimum=objective_minima(problem, hyperparams),
        group_of=problem.group_of,
        loss_scale=task.loss_scale,
        loss_floor=task.loss_floor,
        kernel=chosen.name,
        device=chosen.device,
        early_stops=stops,
    )


def check_task(task: Task, dtype: Dtype, batch_size: int) -> None:
    """Check that the task can be trained with this dtype and batch size, without training it.

    Raises:
        InvalidTask: data that are not finite in dtype, or a module that cannot be trained.
    """
    _rounded(task, dtype)
    _check_module(task, dtype, batch_size)


def make_problem(task: Task, dtype: Dtype, groups: NDArray[np.intp] | None = None) -> Problem:
    """Return the task in the form that kernels expect; ``groups``: (P,) each parameter's group, by default 0.

    Raises:
        InvalidTask: data that are not finite in dtype.
    """
    (features, targets), held_out = _rounded(task, dtype)
    return Problem(
        task=task,
        features=features,
        targets=targets,
        bias=task.model.bias,
        held_out=held_out,
        training=task.quadratic(dtype) if task.is_quadratic else None,
        validation=task.validation_quadratic(dtype) if task.is_quadratic else None,
        group_of=np.zeros(len(task.parameter_names), dtype=np.intp) if groups is None else groups,
    )


def _rounded(task: Task, dtype: Dtype) -> tuple[_Samples, _Samples | None]:
    """Return features and goals in dtype, for the training set and for the validation set if there is one."""
    held_out = task.dataset.validation
    training = rounded(task.features, dtype), goals(task.dataset, dtype)
    if held_out is None:
        return training, None
    return training, (rounded(task.model.features(held_out.inputs), dtype), goals(held_out, dtype))


class _Run:
    """A kernel driver that steps through the epochs, one block of sample orders at a time."""

    def __init__(
        self,
        problem: Problem,
        order: Order,
        batch_size: int,
        epochs: range,
        chosen: Choice,
        resources: Resources,
        on_steps: OnSteps | None,
    ) -> None:
        self.problem, self.order, self.batch_size = problem, order, batch_size
        self.epochs, self.advance, self.resources, self.on_steps = epochs, chosen.advance, resources, on_steps

    def __call__(
        self,
        hyperparams: Hyperparams,
        state: State,
        curves: Curves,
        seeds: NDArray[np.int64],
        rule: EarlyStopping | EarlyStops | None,
    ) -> EarlyStops | None:
        """Train the trials in place; with a rule, return where they stopped."""
        n = len(self.problem.targets)
        per_epoch = steps_per_epoch(n, self.batch_size)
        distinct, which = _distinct(seeds)
        first, last = self.epochs.start * per_epoch, self.epochs.stop * per_epoch
        table = RateTable(hyperparams, per_epoch, first, last) if hyperparams.is_scheduled else None
        patience = None
        if rule is not None:
            patience = Patience(rule, self.advance, state)
            curves.blank(slice(None))
        for block, samples in blocks(self.order, n, distinct, self.epochs):
            for stop in _stops(state.step, block.stop * per_epoch, table):
                low = np.searchsorted(curves.steps, state.step + (state.step > first))
                recorded = slice(int(low), int(np.searchsorted(curves.steps, stop, side="right")))
                rates = table.until(state.step, stop) if table else None
                segment = Segment(stop, samples, which, block.start, self.batch_size, recorded, rates, last)
                with counted(self.on_steps, len(hyperparams) * (stop - state.step)) as on_steps:
                    resources = replace(self.resources, on_steps=on_steps)
                    (patience or self.advance)(self.problem, hyperparams, state, segment, curves, resources)
                state = replace(state, step=stop)
            if patience is not None and patience.is_over:
                break
        if self.on_steps is not None and state.step < last:
            self.on_steps(len(hyperparams) * (last - state.step))
        return patience.restored(state) if patience is not None else None


def _stops(first: int, last: int, table: RateTable | None) -> Iterator[int]:
    """Yield where the segments of a block of steps end: at its end, or before it where a table of rates is full."""
    while table is not None and first + table.longest < last:
        first += table.longest
        yield first
    yield last


def _check_module(task: Task, dtype: Dtype, batch_size: int) -> None:
    if not task.model.linear:
        from sgdcore.kernels.module_torch.functional import check_module

        check_module(task, dtype, batch_size)


def _check(epochs: int, batch_size: int, order: str, dtype: str, threads: int | None) -> None:
    least = {"epochs": (epochs, 0), "batch_size": (batch_size, 1), "threads": (1 if threads is None else threads, 1)}
    for name, (value, lowest) in least.items():
        if not isinstance(value, int | np.integer) or value < lowest:
            raise InvalidTraining(f"{name} must be a whole number >= {lowest}, not {value}")
    if order not in ("sequential", "shuffled"):
        raise InvalidTraining(f"order must be sequential or shuffled, not {order!r}")
    if dtype not in ("float32", "float64"):
        raise InvalidTraining(f"dtype must be float32 or float64, not {dtype!r}")


def _check_continuation(start: Trajectories, hyperparams: Hyperparams, per_epoch: int) -> None:
    """Check that only lr changes: momentum buffers, targets and the position in the epoch depend on the rest."""
    if start.steps_per_epoch != per_epoch:
        raise InvalidTraining(f"cannot continue with {per_epoch} steps per epoch: start has {start.steps_per_epoch}")
    if list(start.hyperparams.groups) != list(hyperparams.groups):
        known = ", ".join(start.hyperparams.groups) or "none"
        raise InvalidTraining(f"cannot continue with other parameter groups: start has {known}")
    pairs = {"": (start.hyperparams, hyperparams)}
    pairs |= {
        f" of group {name}": (start.hyperparams.groups[name], group) for name, group in hyperparams.groups.items()
    }
    for suffix, (old, new) in pairs.items():
        for name in ("momentum", "weight_decay", "dampening", "nesterov"):
            before, now = getattr(old, name), getattr(new, name)
            if not np.array_equal(before, now):
                trial = int(np.argmax(before != now))
                reason = f"start has {before[trial]} (trial {trial})"
                raise InvalidTraining(f"cannot continue with {name}{suffix} {now[trial]}: {reason}")


def _check_range(hyperparams: Hyperparams, dtype: str) -> None:
    for group, name in product(
        (hyperparams, *hyperparams.groups.values()), ("lr", "momentum", "weight_decay", "dampening")
    ):
        largest = np.abs(getattr(group, name)).max(initial=0.0)
        if largest > np.finfo(dtype).max:  # torch: "value cannot be converted to type float without overflow"
            raise InvalidTraining(f"{name} must be finite in {dtype}, not {largest}")


def _early_stopping(
    given: EarlyStopping | EarlyStops | None, problem: Problem, trials: int
) -> EarlyStopping | EarlyStops | None:
    """Return the rule with its metric, checked against the run."""
    if isinstance(given, EarlyStops) and len(given.best_step) != trials:
        raise InvalidTraining(f"cannot stop where {len(given.best_step)} other trials did: this run has {trials}")
    if not isinstance(given, EarlyStopping):
        return given
    if given.metric == "validation_loss" and problem.held_out is None:
        raise InvalidTraining("early stopping by validation_loss needs a validation set")
    return replace(given, metric=given.metric or ("validation_loss" if problem.held_out else "loss"))


def _distinct(seeds: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.intp]]:
    """Return the distinct seeds and each trial's index among them; skips the sort if all seeds are equal."""
    if len(seeds) and (seeds == seeds[0]).all():
        return seeds[:1], np.zeros(len(seeds), dtype=np.intp)
    return np.unique(seeds, return_inverse=True)


def _seeds(seeds: ArrayLike, trials: int) -> NDArray[np.int64]:
    given = np.asarray(seeds)
    if given.shape not in ((), (trials,)):
        raise InvalidTraining(f"seeds must be one number or have the shape ({trials},), not {given.shape}")
    if given.dtype.kind not in "iu" or (given < 0).any() or (given > np.iinfo(np.int64).max).any():
        raise InvalidTraining(f"seeds must be whole numbers from 0 to 2^63 - 1, not {given.tolist()}")
    return np.broadcast_to(given.astype(np.int64), (trials,))
