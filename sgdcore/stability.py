"""Stability without training: for squared loss and a linear model each SGD step is an affine map of (p, buffer).

With x the features of a sample (1 appended for the bias), a step on a batch of B samples at distance e = p - p* has the
gradient H e + constant, H = 2/B sum x x^T + weight_decay I, so that the linear part of a step is

    buf <- momentum buf + (1 - dampening) H e
    d   <- H e + momentum buf     if nesterov, else buf; H e if momentum = 0
    e   <- e - lr d

and that of an epoch is the product over its batches. The growth of distances per epoch is one number, below 1 for
settings that settle and above 1 for those that diverge. Its definition depends on the order of the samples:

*A fixed order* repeats one map. Its spectral radius r is the growth: from (almost) any start the distance to the fixed
point is multiplied by r per epoch in the long run, for any number of epochs. The first step, whose buffer is the
gradient itself, changes the start but not r. For one batch per epoch and one eigenvalue l of H this is the textbook
bound: stable for lr (1 - dampening) l < 2 (1 + momentum), with nesterov for lr l < 2 (1 + momentum) /
(1 + 2 momentum) (B. Polyak, Some methods of speeding up the convergence of iteration methods, 1964; N. Flammarion and
F. Bach, From averaging to acceleration, 2015).

*Shuffled samples* give every epoch a different map. With G the product over all E epochs that the trial's seed draws,
from the first distance to the last (starting from an empty buffer, with an undamped first step, as in the run itself),
the growth is (|G| / sqrt(P))^(1/E) in the Frobenius norm: the root mean square, over all directions of the start, of
the factor per epoch by which this particular run multiplies a distance. As E grows it tends for almost every seed to
one number, exp of the largest Lyapunov exponent (H. Furstenberg and H. Kesten, Products of random matrices, 1960),
whose sign decides whether the affine recursion settles (P. Bougerol and N. Picard, Strict stationarity of generalized
autoregressive processes, 1992). The spectral radius of G to the power 1/E has the same limit but predicts a finite run
less well, because the run does not repeat its E epochs: over 54,000 runs of 1 to 10 epochs near the stability boundary
it mispredicts 5.9 % of the verdicts (farther from the optimum than at the start, or not), and the growth 4.2 %; over
36,000 runs of 50 and 200 epochs, 0.8 % and 0.7 %.

*A schedule* gives every epoch a different map as well, and the growth is the same measure of the product of all maps,
with the learning rate (and momentum) of every step. *Parameter groups* make lr, momentum, dampening and weight_decay
diagonal matrices in the formulas above. Sample weights w make the sum in H one of w x x^T; each of K targets has
parameters of its own, with 1/K of the sum. Clipped gradients are not affine in p: their trials have no growth, NaN.

Growth describes differences: below 1, runs from all starts come together. They meet at the optimum only if all batches
share one; with noisy data or weight decay they meet at a noise floor, whose tails are heavy near the stability
boundary (H. Kesten, Random difference equations and renewal theory, 1973), so that it can lie above the start.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sgdcore.batches import Order, blocks, steps_per_epoch
from sgdcore.hyperparams import Hyperparams
from sgdcore.parameter_groups import GroupPatterns, group_of
from sgdcore.rates import RateTable, with_cycled_momentum
from sgdcore.tasks.task import Task, parameters_of_output

FloatArray = NDArray[np.float64]
_BLOCK_ENTRIES = 1 << 14  # entries of the trials multiplied at a time, few enough to stay in cache
_MAX_LOG = 700.0  # growth is capped at e^700
_MAX_REACH = 900.0  # log2 of entries that cannot overflow
_MAX_STEPS_UNSCALED = 16  # each can shrink a state to its rounding, 2^-53


class Kind(StrEnum):
    """The definition of a growth per epoch, in words."""

    EPOCH_MAP = "spectral radius of the epoch's map"
    DRAWN_ORDERS = "growth per epoch over the drawn orders"
    SCHEDULED = "growth per epoch over the scheduled run"


@dataclass(frozen=True, eq=False)
class Growth:
    """The factor by which an epoch multiplies distances: below 1 a trial settles, above 1 it diverges."""

    kind: Kind
    per_epoch: FloatArray  # (T,) NaN for trials whose gradients are clipped


def growth_kind(samples: int, batch_size: int, order: Order, *, scheduled: bool = False) -> Kind:
    """Return the kind of growth that :func:`predict` computes: a full batch has no order."""
    if scheduled:
        return Kind.SCHEDULED
    return Kind.DRAWN_ORDERS if order == "shuffled" and batch_size < samples else Kind.EPOCH_MAP


def predict(
    task: Task,
    hyperparams: Hyperparams,
    *,
    epochs: int,
    batch_size: int = 1,
    order: Order = "sequential",
    seeds: ArrayLike = 0,
    groups: GroupPatterns | None = None,
) -> Growth:
    """Return each trial's growth per epoch; arguments as in :func:`sgdcore.train`, starting at epoch 0.

    A fixed order costs one epoch for any ``epochs``; shuffled samples and schedules need a product over all epochs, P^3
    operations a step. Directions that the data leave undetermined do not move without weight decay and are left out in
    that case; with parameter groups they stay in, with a growth of 1.
    """
    kind = growth_kind(task.samples, batch_size, order, scheduled=hyperparams.is_scheduled)
    is_drawn = order == "shuffled" and batch_size < task.samples
    design, own = _design(task)
    spaces = {True: design @ _row_space(design), False: design}
    free = (hyperparams.weight_decay == 0) & (not hyperparams.groups)
    drawn = np.broadcast_to(np.asarray(seeds if is_drawn else 0), free.shape)
    affine = ~hyperparams.is_clipped
    per_epoch = np.full(free.shape, np.nan)
    of_parameter = group_of(task, groups or {}, tuple(hyperparams.groups))[own]
    per_epoch_steps = steps_per_epoch(task.samples, batch_size)
    for undecayed, seed in sorted(set(zip(free[affine].tolist(), drawn[affine].tolist(), strict=True))):
        seen = spaces[undecayed]
        trials = np.flatnonzero((free == undecayed) & (drawn == seed) & affine)
        portion = max(1, _BLOCK_ENTRIES // max(1, seen.shape[1]) ** 2)
        for first in range(0, len(trials), portion):
            some = trials[first : first + portion]
            settings = _Settings(hyperparams[some], of_parameter, per_epoch_steps, epochs * per_epoch_steps)
            if kind is Kind.EPOCH_MAP:
                log = _log_radius(_hessians(seen, batch_size, np.arange(len(seen))), settings)
            else:
                rows = blocks("shuffled" if is_drawn else "sequential", len(seen), [seed], range(epochs))
                log = _log_growth(_epochs_hessians(seen, batch_size, rows), settings, seen.shape[1]) / max(epochs, 1)
            per_epoch[some] = _exp(np.minimum(log, _MAX_LOG))
    return Growth(kind, per_epoch)


def _design(task: Task) -> tuple[FloatArray, NDArray[np.intp]]:
    """Return the (n, P) design matrix of one output, and the indices of this output's parameters.

    The parameters of all outputs have the same maps: each has 1/K of the loss of K outputs.
    """
    design = np.column_stack([task.features, np.ones((task.samples, int(task.model.bias)))])
    outputs = task.model.outputs
    if outputs > 1:
        design /= np.sqrt(outputs)
    if task.dataset.weights is not None:
        design *= np.sqrt(task.dataset.weights)[:, np.newaxis]
    return design, parameters_of_output(0, outputs, task.features.shape[1], bias=task.model.bias)


def _row_space(design: FloatArray) -> FloatArray:
    """Return a (P, r) orthonormal basis of the directions that the data determine."""
    _, s, vt = np.linalg.svd(design, full_matrices=False)
    kept = s > np.finfo(np.float64).eps * max(design.shape) * s[0]
    return np.asarray(vt[kept].T)


def _hessians(design: FloatArray, batch_size: int, order: NDArray[np.integer]) -> Iterator[FloatArray]:
    """Yield the (P, P) Hessians of the losses of one epoch's batches."""
    for first in range(0, len(order), batch_size):
        x = design[order[first : first + batch_size]]
        yield 2 / len(x) * (x.T @ x)


def _epochs_hessians(
    design: FloatArray, batch_size: int, orders: Iterable[tuple[range, NDArray[np.int32]]]
) -> Iterator[FloatArray]:
    """Yield the same for all epochs of one order, in blocks as :func:`sgdcore.batches.blocks` yields them."""
    for block, rows in orders:
        for epoch in range(len(block)):
            yield from _hessians(design, batch_size, rows[0, epoch % rows.shape[1]])


class _Settings:
    """The hyperparameters of T trials at each step: columns of shape (T,), or (P, 1, T) with parameter groups."""

    def __init__(self, h: Hyperparams, of_parameter: NDArray[np.intp], steps_per_epoch: int, steps: int) -> None:
        h = with_cycled_momentum(h)
        self.trials, self.of_parameter = len(h), of_parameter if h.groups else None
        every = (h, *h.groups.values())
        self.lr, self.momentum, self.weight_decay, dampening = (
            self._of_parameters(np.array([getattr(group, name) for group in every]))
            for name in ("lr", "momentum", "weight_decay", "dampening")
        )
        self.nesterov = self._of_parameters(np.array([group.nesterov for group in every]))
        self.undamped = 1 - dampening
        self._table = RateTable(h, steps_per_epoch, 0, steps) if h.is_scheduled else None
        self._steps, self._rates = steps, None

    def advance(self, step: int) -> bool:
        """Set the learning rate and momentum of a step; return whether that changed them."""
        if self._table is None or step % self._table.steps_per_row:
            return step == 0
        rates = self._table.until(step, min(step + self._table.steps_per_row, self._steps))
        self.lr = self._of_parameters(rates.lr[0][:, rates.which])
        if rates.momentum is not None:
            self.momentum = self._of_parameters(rates.momentum[0][:, rates.which])
        return True

    def _of_parameters(self, columns: NDArray[Any]) -> NDArray[Any]:
        """Return (G, T) columns by parameter."""
        return columns[0] if self.of_parameter is None else columns[self.of_parameter][:, np.newaxis]


def _log_radius(hessians: Iterable[FloatArray], h: _Settings) -> FloatArray:
    """Return the (T,) logs of the spectral radius of the product of an epoch's steps."""
    steps = list(hessians)
    parameters = len(steps[0])
    state = np.repeat(np.eye(2 * parameters)[..., np.newaxis], h.trials, axis=2)
    log_scale = _multiply(steps, h, state.reshape(2, parameters, 2 * parameters, h.trials), fresh=False)
    radius = np.abs(np.linalg.eigvals(state.transpose(2, 0, 1))).max(axis=1, initial=0.0)
    return _log(radius) + log_scale


def _log_growth(hessians: Iterable[FloatArray], h: _Settings, parameters: int) -> FloatArray:
    """Return the (T,) logs of |G| / sqrt(P), with G the product of a run's steps from its start."""
    state = np.zeros((2, parameters, parameters, h.trials))
    state[0] = np.eye(parameters)[..., np.newaxis]
    log_scale = _multiply(hessians, h, state, fresh=True)
    # Summed entry by entry: for a single trial numpy's sum would be pairwise and differ in the last bit.
    squares = np.square(state[0]).reshape(-1, h.trials).cumsum(axis=0)[-1:].sum(axis=0)
    return _log(np.sqrt(squares / max(parameters, 1))) + log_scale


def _multiply(hessians: Iterable[FloatArray], h: _Settings, state: FloatArray, *, fresh: bool) -> FloatArray:
    """Apply steps to the (2, P, C, T) errors and buffers of C starts of T trials, in place, and normalise their size.

    Returns the (T,) logs of the normalising factors. ``fresh``: the buffers are empty, so that the first gradient is
    undamped.
    """
    plain = h.momentum == 0  # the buffer is never read
    undamped = np.where(plain, 0.0, 1.0 if fresh else h.undamped)
    error, buffer = state
    gradient, product = np.empty_like(error), np.empty_like(error)
    scale = _Scale(h)
    with np.errstate(over="ignore", invalid="ignore"):
        for step, hessian in enumerate(hessians):
            if h.advance(step):
                by_gradient = np.where(plain | h.nesterov, h.lr, 0.0)
                by_buffer = np.where(plain, 0.0, np.where(h.nesterov, h.lr * h.momentum, h.lr))
                scale.measure(h)
            scale.prepare(state, hessian)
            np.einsum("ij,jct->ict", hessian, error, out=gradient)
            gradient += np.multiply(h.weight_decay, error, out=product)
            buffer *= h.momentum
            buffer += np.multiply(undamped, gradient, out=product)
            gradient *= by_gradient
            gradient += np.multiply(by_buffer, buffer, out=product)
            error -= gradient
            undamped = np.where(plain, 0.0, h.undamped)
        scale.normalise(state)
    state[..., scale.overflows] = 1.0  # if a single step overflows float64, nothing can be measured
    return np.where(scale.overflows, np.inf, scale.powers * math.log(2))


class _Scale:
    """Keeps states near 1 by powers of two, which are exact, so that thousands of steps neither overflow nor vanish."""

    def __init__(self, h: _Settings) -> None:
        self.powers, self.overflows = np.zeros(h.trials), np.zeros(h.trials, dtype=bool)
        self._decay = float(h.weight_decay.max(initial=0.0))
        self._undamped = max(1.0, float(np.abs(h.undamped).max(initial=0.0)))
        self._reach, self._steps = 0.0, 0  # log2 of the largest possible entry, and steps, since the last normalising
        self.measure(h)

    def measure(self, h: _Settings) -> None:
        """Note the size of the learning rates and momenta of the next steps."""
        self._momentum, lr = (float(x.max(initial=0.0)) for x in (h.momentum, h.lr))
        self._fixed = math.log2(1 + lr) + math.log2(1 + self._momentum)

    def prepare(self, state: FloatArray, hessian: FloatArray) -> None:
        """Normalise before a step that could overflow, or after as many steps as could vanish.

        A step of a state whose entries are at most 1 has gradients of at most g = P trace(H) + weight_decay, so that no
        entry exceeds (1 + lr) (1 + momentum) (1 + g) (1 + momentum + |1 - dampening| g).
        """
        g = len(hessian) * float(hessian.trace()) + self._decay
        growth = self._fixed + math.log2(1 + g) + math.log2(1 + self._momentum + self._undamped * g)
        if self._steps and (self._steps == _MAX_STEPS_UNSCALED or not self._reach + growth < _MAX_REACH):
            self.normalise(state)
        self._reach, self._steps = self._reach + growth, self._steps + 1

    def normalise(self, state: FloatArray) -> None:
        """Divide each trial's state by the power of two next to its largest entry."""
        size = np.abs(state).max(axis=(0, 1, 2), initial=0.0)
        self.overflows |= ~np.isfinite(size)
        power = np.maximum(np.frexp(size)[1], -1000)
        state *= np.ldexp(1.0, -power)
        self.powers += power
        self._reach, self._steps = 0.0, 0


def _log(values: FloatArray) -> FloatArray:
    """Return natural logarithms; numpy's for float64 depend on the processor in their last bit."""
    with np.errstate(divide="ignore"):
        return np.log(values.astype(np.longdouble)).astype(np.float64)


def _exp(values: FloatArray) -> FloatArray:
    """Return e to these powers, independent of the processor like :func:`_log`."""
    return np.exp(values.astype(np.longdouble)).astype(np.float64)
