"""The reference kernel: torch's own SGD, schedulers and clipping, trial by trial and step by step; slow but exact."""

from __future__ import annotations

import inspect
import math
import warnings
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from sgdcore.batches import steps_per_epoch
from sgdcore.hyperparams import Hyperparams
from sgdcore.kernels.base import Problem, Resources, Segment, penalty_weights
from sgdcore.kernels.module_torch.functional import (
    as_targets,
    evaluating,
    log_cosh,
    mean_and_variance,
    pinball,
    tensors,
    torch_threads,
)
from sgdcore.tasks.initialisation import initialised
from sgdcore.tasks.task import Task
from sgdcore.trajectories import NEVER, Curves, State


def advance(
    problem: Problem, hyperparams: Hyperparams, state: State, segment: Segment, curves: Curves, resources: Resources
) -> None:
    """Step every trial with torch.optim.SGD."""
    curves.blank(segment.recorded)
    ignored = np.errstate(over="ignore", invalid="ignore")  # from diverging trials
    with torch_threads(resources.threads), ignored:
        for trial in range(len(hyperparams)):
            _Trial(problem, hyperparams, state, segment, curves, trial, resources.device).run()


class _SGD(torch.optim.SGD):
    """torch.optim.SGD without the wrappers around its methods.

    Those for torch.compile import torch._dynamo, which takes seconds; those for torch's profiler take as long as a step
    of a small model.
    """

    add_param_group = inspect.unwrap(torch.optim.SGD.add_param_group)
    step = torch.no_grad()(inspect.unwrap(torch.optim.SGD.step))
    step.hooked = True

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients."""
        for group in self.param_groups:
            for p in group["params"]:
                p.grad = None


class TorchTrial:
    """One trial as a user would write it: a torch.nn.Module, a loss from torch.nn.functional, and torch.optim.SGD."""

    def __init__(
        self,
        task: Task,
        params: NDArray[Any],
        momentum_buffers: NDArray[Any] | None,
        hyperparams: Hyperparams,
        device: str = "cpu",
        *,
        group_of: NDArray[np.intp] | None = None,
        steps_per_epoch: int = 1,
        last: int = 0,
        steps_done: int = 0,
    ) -> None:
        """Start from (P,) parameters, and from (P,) buffers if steps were taken before.

        Args:
            task: the task.
            params: (P,).
            momentum_buffers: (P,), None before the first step.
            hyperparams: one trial's.
            device: torch's name of the device.
            group_of: (P,) each parameter's group, by default 0.
            steps_per_epoch: at whose end a schedule by epoch moves on.
            last: the steps of the whole run, for schedules that take the rest of it.
            steps_done: the steps taken before.
        """
        self.task, self.per_epoch, self.steps = task, steps_per_epoch, 0
        self.module = initialised(task.model, task.features.shape[1], 0, str(params.dtype)).to(device)
        self.trained = [p for p in self.module.parameters() if p.requires_grad]
        self.optimizer = self._optimizer(hyperparams, np.zeros(len(params), np.intp) if group_of is None else group_of)
        with torch.no_grad():
            for p, values in zip(self.trained, self._split(params), strict=True):
                p.copy_(values)
        self.clip_norm, self.clip_value = float(hyperparams.clip_grad_norm[0]), float(hyperparams.clip_grad_value[0])
        self.schedule = hyperparams.schedules[hyperparams.schedule_of[0]]
        self.scheduler = None
        if self.schedule is not None:
            rows = last if self.schedule.interval == "step" else last // steps_per_epoch
            self.scheduler = self.schedule.lasting(rows).torch_scheduler(self.optimizer)
        with warnings.catch_warnings():  # of a scheduler that moves on before the optimizer does
            warnings.simplefilter("ignore")
            for _ in range(steps_done):
                self._move_on()
        if momentum_buffers is not None:
            momenta = {id(p): group["momentum"] for group in self.optimizer.param_groups for p in group["params"]}
            for p, values in zip(self.trained, self._split(momentum_buffers), strict=True):
                if momenta[id(p)] != 0:
                    self.optimizer.state[p]["momentum_buffer"] = values.to(device)

    def step(self, features: torch.Tensor, targets: torch.Tensor) -> float:
        """Take one step on a batch and return its loss before the step."""
        self.optimizer.zero_grad()
        loss = self._loss(self._outputs(features), targets)
        loss.backward()  # type: ignore[no-untyped-call, unused-ignore]
        self.was_clipped = self._clip()
        self.optimizer.step()
        self._move_on()
        return loss.item()

    def rate(self) -> float:
        """Return the learning rate of the next step, in the first parameter group."""
        return float(self.optimizer.param_groups[0]["lr"])

    def _clip(self) -> bool:
        """Clip the gradients as torch.nn.utils does, and return whether that changed them."""
        changed = False
        if math.isfinite(self.clip_norm):
            norm = torch.nn.utils.clip_grad_norm_(self.trained, self.clip_norm)
            changed = bool(self.clip_norm / (norm + 1e-6) < 1)
        if math.isfinite(self.clip_value):
            changed |= any(bool((p.grad.abs() > self.clip_value).any()) for p in self.trained if p.grad is not None)
            torch.nn.utils.clip_grad_value_(self.trained, self.clip_value)
        return changed

    def _move_on(self) -> None:
        self.steps += 1
        if self.scheduler is None or self.schedule is None:
            return
        if self.schedule.interval == "step" or self.steps % self.per_epoch == 0:
            if self.schedule.cycles_momentum and self.scheduler.last_epoch + 1 >= self.scheduler.total_steps:
                return  # at its end: torch raises
            self.scheduler.step()

    def _optimizer(self, hyperparams: Hyperparams, group_of: NDArray[np.intp]) -> _SGD:
        ends = np.cumsum([p.numel() for p in self.trained])
        members: dict[int, list[torch.nn.Parameter]] = {}
        for p, end in zip(self.trained, ends, strict=True):
            members.setdefault(int(group_of[end - 1]), []).append(p)
        every = [hyperparams, *hyperparams.groups.values()]
        return _SGD([{"params": members[group], **every[group].arguments(0)} for group in sorted(members)])

    def loss(self, features: torch.Tensor, targets: torch.Tensor) -> float:
        """Return the loss over a whole set, with the mean taken in float64."""
        with evaluating(self.module):
            outputs = self._outputs(features).double()
        return self._loss(outputs, targets.double()).item()

    def params(self) -> NDArray[Any]:
        """Return the (P,) parameters, in torch's order."""
        return _flat([p.detach() for p in self.trained])

    def gradients(self) -> NDArray[Any]:
        """Return the (P,) gradients of the last batch."""
        return _flat([p.grad for p in self.trained if p.grad is not None])

    def momentum_buffers(self) -> NDArray[Any]:
        """Return the (P,) momentum buffers, zeros if the optimizer keeps none."""
        return _flat(
            [self.optimizer.state.get(p, {}).get("momentum_buffer", torch.zeros_like(p)).detach() for p in self.trained]
        )

    def _outputs(self, features: torch.Tensor) -> torch.Tensor:
        return as_targets(self.module(features))

    def _loss(self, outputs: torch.Tensor, goals: torch.Tensor) -> torch.Tensor:
        criterion = self.task.criterion
        if not criterion.is_weighted:
            return self._unweighted(outputs, goals, "mean")
        losses = self._unweighted(outputs, as_targets(goals[:, :-1]), "none")
        return (losses.T * goals[:, -1]).mean() if losses.ndim == 2 else (losses * goals[:, -1]).mean()

    def _unweighted(self, outputs: torch.Tensor, targets: torch.Tensor, reduction: str) -> torch.Tensor:
        criterion = self.task.criterion
        match criterion.name:
            case "mse":
                return functional.mse_loss(outputs, targets, reduction=reduction)
            case "mae":
                return functional.l1_loss(outputs, targets, reduction=reduction)
            case "huber":
                return functional.huber_loss(outputs, targets, delta=criterion.huber_delta, reduction=reduction)
            case "poisson_nll":
                return functional.poisson_nll_loss(outputs, targets, reduction=reduction)
            case "gaussian_nll":
                mean, variance = mean_and_variance(outputs)
                return functional.gaussian_nll_loss(mean, targets, variance, reduction=reduction)
            case "quantile":
                losses = pinball(outputs, targets, criterion.quantile)
            case _:
                losses = log_cosh(outputs, targets)
        return losses.mean() if reduction == "mean" else losses

    def _split(self, values: NDArray[Any]) -> list[torch.Tensor]:
        """Return flat values as tensors of the parameters' shapes."""
        parts = torch.split(torch.from_numpy(np.array(values)), [p.numel() for p in self.trained])
        return [part.reshape(p.shape).clone() for part, p in zip(parts, self.trained, strict=True)]


class _Trial:
    def __init__(
        self,
        problem: Problem,
        hyperparams: Hyperparams,
        state: State,
        segment: Segment,
        curves: Curves,
        trial: int,
        device: str,
    ) -> None:
        self.problem, self.state, self.segment, self.curves, self.trial = problem, state, segment, curves, trial
        self.per_epoch = steps_per_epoch(len(problem.targets), segment.batch_size)
        self.weights = penalty_weights(hyperparams[np.array([trial])])
        self.torch = TorchTrial(
            problem.task,
            state.params[trial],
            state.momentum_buffers[trial] if state.step else None,
            hyperparams[np.array([trial])],
            device,
            group_of=problem.group_of,
            steps_per_epoch=self.per_epoch,
            last=segment.run_steps,
            steps_done=state.step,
        )
        self.training = tensors((problem.features, problem.targets), device)
        self.validation = tensors(problem.held_out, device) if problem.held_out else None

    def run(self) -> None:
        state, trial, segment = self.state, self.trial, self.segment
        recorded = {
            int(s): k for k, s in enumerate(self.curves.steps[: segment.recorded.stop]) if k >= segment.recorded.start
        }
        features, targets = self.training
        rows = segment.samples[segment.order[trial]]
        per_epoch = self.per_epoch
        if state.first_nonfinite_step[trial] != NEVER:
            return
        if state.step in recorded:
            self.record(recorded[state.step])
        direction, peak = state.direction[trial], state.peak[trial]
        farthest = peak * direction
        for step in range(state.step, segment.stop):
            row = rows[(step // per_epoch - segment.first_epoch) % len(rows)]
            first = step % per_epoch * segment.batch_size
            batch = torch.from_numpy(row[first : first + segment.batch_size].astype(np.int64)).to(features.device)
            self.torch.step(features[batch], targets[batch])
            state.clipped_steps[trial] += self.torch.was_clipped
            params = self.torch.params()
            if not np.isfinite(params).all():
                state.first_nonfinite_step[trial] = step + 1
                break
            ahead = params * direction > farthest
            if ahead.any():
                peak[ahead] = params[ahead]
                state.peak_step[trial, ahead] = step + 1
                farthest = peak * direction
            if step + 1 in recorded:
                self.record(recorded[step + 1])
        state.params[trial] = self.torch.params()
        state.momentum_buffers[trial] = self.torch.momentum_buffers()

    def record(self, point: int) -> None:
        params, curves, trial, problem = self.torch.params(), self.curves, self.trial, self.problem
        if curves.path is not None:
            curves.path[trial, point] = params
        exact = params.astype(np.float64)
        if curves.squared_norm is not None:
            weights = 1.0 if self.weights is None else self.weights[problem.group_of, 0]
            curves.squared_norm[trial, point] = (weights * exact) @ exact
        quadratic = problem.training
        curves.loss[trial, point] = quadratic.value(exact) if quadratic else self.torch.loss(*self.training)
        if curves.validation_loss is not None and self.validation is not None:
            quadratic = problem.validation
            curves.validation_loss[trial, point] = (
                quadratic.value(exact) if quadratic else self.torch.loss(*self.validation)
            )


def _flat(tensors: list[torch.Tensor]) -> NDArray[Any]:
    values: NDArray[Any] = torch.cat([t.flatten() for t in tensors]).cpu().numpy()
    return values
