"""Stability before running: for squared loss and a linear model, an epoch of SGD is an affine map of (p, buffer).

With x the features of a sample (1 appended for the bias), a step on a batch of B samples at distance e = p - p* has the
gradient H e + constant, H = 2/B sum x x^T + weight_decay I, so that the linear part of a step is

    buf <- momentum buf + (1 - dampening) H e
    d   <- H e + momentum buf     if nesterov, else buf; H e if momentum = 0
    e   <- e - lr d

and that of an epoch is the product over its batches. Its spectral radius r says what happens in the long run: from
(almost) any start the distance to the fixed point is multiplied by r per epoch. r < 1 settles, r > 1 diverges; the
first step, whose buffer is the gradient itself, changes the start and not r. For one batch per epoch and one
eigenvalue l of H this is the textbook's bound: stable for lr (1 - dampening) l < 2 (1 + momentum), with nesterov for
lr l < 2 (1 + momentum) / (1 + 2 momentum) (B. Polyak, Some methods of speeding up the convergence of iteration
methods, 1964; N. Flammarion and F. Bach, From averaging to acceleration, 2015).

Where the samples of an epoch come in a new random order, there is no one map; such runs are not predicted here.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sgdcore.batches import Order
from sgdcore.hyperparams import Hyperparams
from sgdcore.tasks.task import Task

FloatArray = NDArray[np.float64]
_BLOCK_BYTES = 1 << 25
_MAX_LOG = 700.0  # radii beyond e^700 are cut there


def epoch_radius(
    task: Task, hyperparams: Hyperparams, *, batch_size: int = 1, order: Order = "sequential"
) -> FloatArray | None:
    """(T,) spectral radius of each trial's epoch map; None where batches are drawn anew every epoch.

    Directions that the data leave undetermined do not move without weight decay, and do not count there.
    """
    if order == "shuffled" and batch_size < task.samples:
        return None
    design = np.column_stack([task.features, np.ones((task.samples, int(task.model.bias)))])
    radius = np.empty(len(hyperparams))
    free = hyperparams.weight_decay == 0
    for trials, basis in ((free, _row_space(design)), (~free, None)):
        rows = np.flatnonzero(trials)
        hessians = _hessians(design if basis is None else design @ basis, batch_size)
        width = 2 * hessians.shape[-1]
        block = max(1, _BLOCK_BYTES // (8 * width * width))
        for first in range(0, len(rows), block):
            some = rows[first : first + block]
            radius[some] = _radius(hessians, hyperparams[some])
    return radius


def _row_space(design: FloatArray) -> FloatArray:
    """(P, r) orthonormal basis of the directions that the data determine."""
    _, s, vt = np.linalg.svd(design, full_matrices=False)
    kept = s > np.finfo(np.float64).eps * max(design.shape) * s[0]
    return np.asarray(vt[kept].T)


def _hessians(design: FloatArray, batch_size: int) -> FloatArray:
    """(steps, P, P) Hessians of the batches' losses, in order."""
    batches = [design[first : first + batch_size] for first in range(0, len(design), batch_size)]
    return np.stack([2 / len(x) * (x.T @ x) for x in batches])


def _radius(hessians: FloatArray, h: Hyperparams) -> FloatArray:
    parameters = hessians.shape[-1]
    lr, momentum, decay, undamped = (
        column[:, np.newaxis, np.newaxis] for column in (h.lr, h.momentum, h.weight_decay, 1 - h.dampening)
    )
    nesterov, heavy = (flag[:, np.newaxis, np.newaxis] for flag in (h.nesterov, h.momentum != 0))
    state = np.broadcast_to(np.eye(2 * parameters), (len(h), 2 * parameters, 2 * parameters))
    error, buffer = state[:, :parameters], state[:, parameters:]
    log_scale = np.zeros(len(h))
    for hessian in hessians:
        gradient = hessian @ error + decay * error
        buffer = momentum * buffer + undamped * gradient
        direction = np.where(heavy, np.where(nesterov, gradient + momentum * buffer, buffer), gradient)
        error = error - lr * direction
        # Kept near 1, so that hundreds of diverging steps do not overflow.
        size = np.maximum(np.abs(error).max(axis=(1, 2)), np.abs(buffer).max(axis=(1, 2)))
        size = np.where(size > 0, size, 1.0)
        log_scale += np.log(size)
        error, buffer = error / size[:, np.newaxis, np.newaxis], buffer / size[:, np.newaxis, np.newaxis]
    # What a plain step leaves in the buffer is never read.
    buffer = np.where(heavy, buffer, 0.0)
    largest = np.abs(np.linalg.eigvals(np.concatenate([error, buffer], axis=1))).max(axis=1)
    with np.errstate(divide="ignore"):
        return np.asarray(np.exp(np.minimum(np.log(largest) + log_scale, _MAX_LOG)))
