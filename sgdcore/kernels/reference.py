"""The reference kernel: torch.optim.SGD on torch.nn.Linear, trial by trial and step by step; slow, and the oracle."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from sgdcore.hyperparams import Hyperparams
from sgdcore.kernels.base import Problem, Segment
from sgdcore.trajectories import NEVER, Curves, State


def advance(
    problem: Problem, hyperparams: Hyperparams, state: State, segment: Segment, curves: Curves, threads: int
) -> None:
    """Step every trial with torch.optim.SGD; ``threads`` is not used."""
    curves.blank(segment.recorded)
    with np.errstate(over="ignore", invalid="ignore"):  # of trials that diverge
        for trial in range(len(hyperparams)):
            _Trial(problem, hyperparams, state, curves, trial).run(segment)


class TorchTrial:
    """One trial as a user would write it: a torch.nn.Linear, F.mse_loss and torch.optim.SGD."""

    def __init__(
        self,
        params: NDArray[Any],
        momentum_buffers: NDArray[Any] | None,
        bias: bool,
        hyperparams: Hyperparams,
    ) -> None:
        """Start from (P,) parameters, and from (P,) buffers where steps were taken before."""
        values = torch.from_numpy(np.array(params))
        width = len(values) - bias
        self.layer = torch.nn.Linear(width, 1, bias=bias, dtype=values.dtype)
        self.optimizer = torch.optim.SGD(self.layer.parameters(), **hyperparams.arguments(0))
        with torch.no_grad():
            self.layer.weight.copy_(values[None, :width])
            if bias:
                self.layer.bias.copy_(values[width:])
        if momentum_buffers is not None and hyperparams.momentum[0] != 0:
            buffers = torch.from_numpy(np.array(momentum_buffers))
            for p, part in zip(self.layer.parameters(), (buffers[None, :width], buffers[width:]), strict=False):
                self.optimizer.state[p]["momentum_buffer"] = part.clone()

    def step(self, features: torch.Tensor, targets: torch.Tensor) -> float:
        """Take one step on a batch; returns its loss before the step."""
        self.optimizer.zero_grad()
        loss = functional.mse_loss(self.layer(features)[:, 0], targets)
        loss.backward()  # type: ignore[no-untyped-call, unused-ignore]
        self.optimizer.step()
        return loss.item()

    def params(self) -> NDArray[Any]:
        """(P,) parameters, weights first."""
        return _flat([p.detach() for p in self.layer.parameters()])

    def gradients(self) -> NDArray[Any]:
        """(P,) gradients of the last batch."""
        return _flat([p.grad for p in self.layer.parameters() if p.grad is not None])

    def momentum_buffers(self) -> NDArray[Any]:
        """(P,) momentum buffers, zeros where the optimizer keeps none."""
        return _flat(
            [
                self.optimizer.state.get(p, {}).get("momentum_buffer", torch.zeros_like(p)).detach()
                for p in self.layer.parameters()
            ]
        )


class _Trial:
    def __init__(self, problem: Problem, hyperparams: Hyperparams, state: State, curves: Curves, trial: int) -> None:
        self.problem, self.state, self.curves, self.trial = problem, state, curves, trial
        buffers = state.momentum_buffers[trial] if state.step else None
        one = hyperparams[np.array([trial])]
        self.torch = TorchTrial(state.params[trial], buffers, problem.bias, one)
        self.features = torch.from_numpy(problem.features)
        self.targets = torch.from_numpy(problem.targets)

    def run(self, segment: Segment) -> None:
        state, trial = self.state, self.trial
        recorded = {
            int(s): k for k, s in enumerate(self.curves.steps[: segment.recorded.stop]) if k >= segment.recorded.start
        }
        n = len(self.targets)
        per_epoch = -(-n // segment.batch_size)
        if state.first_nonfinite_step[trial] != NEVER:
            return
        if state.step in recorded:
            self.record(recorded[state.step])
        for step in range(state.step, segment.stop):
            row = segment.samples[(step // per_epoch - segment.first_epoch) % len(segment.samples)]
            first = step % per_epoch * segment.batch_size
            batch = torch.from_numpy(row[first : first + segment.batch_size].astype(np.int64))
            self.torch.step(self.features[batch], self.targets[batch])
            params = self.torch.params()
            if not np.isfinite(params).all():
                state.first_nonfinite_step[trial] = step + 1
                break
            ahead = params * state.direction[trial] > state.peak[trial] * state.direction[trial]
            state.peak[trial] = np.where(ahead, params, state.peak[trial])
            state.peak_step[trial] = np.where(ahead, step + 1, state.peak_step[trial])
            if step + 1 in recorded:
                self.record(recorded[step + 1])
        state.params[trial] = self.torch.params()
        state.momentum_buffers[trial] = self.torch.momentum_buffers()

    def record(self, point: int) -> None:
        params, curves, trial = self.torch.params(), self.curves, self.trial
        if curves.path is not None:
            curves.path[trial, point] = params
        exact = params.astype(np.float64)
        if curves.squared_norm is not None:
            curves.squared_norm[trial, point] = exact @ exact
        curves.loss[trial, point] = self.problem.training.value(exact)
        if curves.validation_loss is not None and self.problem.validation is not None:
            curves.validation_loss[trial, point] = self.problem.validation.value(exact)


def _flat(tensors: list[torch.Tensor]) -> NDArray[Any]:
    values: NDArray[Any] = torch.cat([t.flatten() for t in tensors]).numpy()
    return values
