"""Programs: those of a pack whose network has known operations, by the shape of the batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.func import grad, vmap

from sgdcore.errors import InvalidTask
from sgdcore.kernels.module_torch.functional import Network, evaluating, loss_function, losses_of_outputs
from sgdcore.kernels.module_torch.graph import Untraceable
from sgdcore.kernels.module_torch.operations import Unknown, operations_of
from sgdcore.kernels.module_torch.program import Program
from sgdcore.tasks.losses import Loss

_TRIED, _TRIED_SAMPLES = 2, 6  # trials


class Batched:
    """The operations of a network in training and in evaluation."""

    def __init__(self, net: Network) -> None:
        """Read the network's module.

        Raises:
            Unknown, Untraceable: it has operations that are not known.
        """
        trained = [p for p in net.module.parameters() if p.requires_grad]
        ends = torch.tensor(net.sizes).cumsum(0).tolist()
        self._places = {id(p): end - p.numel() for p, end in zip(trained, ends, strict=True)}
        self._training = operations_of(net.module, net.width)
        with evaluating(net.module):
            self._evaluation = operations_of(net.module, net.width)
        for operations in (self._training, self._evaluation):
            used = [id(t) for operation in operations for t in operation.tensors if id(t) in self._places]
            if len(used) != len(set(used)) or set(used) != set(self._places):
                raise Unknown("a parameter is used twice, or not at all")
            if operations[-1].width != 1:
                raise Unknown(f"it has {operations[-1].width} outputs")

    def training(self, params: torch.Tensor, samples: torch.Tensor) -> Program:
        """Return a program for (T, P) parameters and batches like these, with gradients."""
        return Program(self._training, self._places, params, samples, differentiates=True)

    def evaluation(self, params: torch.Tensor, samples: torch.Tensor) -> Program:
        """Return a program for (T, P) parameters and sets of samples like these, without gradients."""
        return Program(self._evaluation, self._places, params, samples, differentiates=False)


class Programs:
    """The programs of a pack."""

    def __init__(self, known: Batched, params: torch.Tensor, loss: Loss) -> None:
        """Prepare programs that read these (T, P) parameters, whose content can change."""
        self._known, self._params, self._loss = known, params, loss
        self._made: dict[Any, Program] = {}

    def gradients(self, features: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Return the (T, P) gradients of a batch's mean losses; the next call overwrites them."""
        program = self._program(self._known.training, features)
        _write_slopes(self._loss, program, targets)
        return program.gradients()

    def summed_losses(self, params: torch.Tensor, features: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Return the (T,) float64 sums of the samples' losses; ``params`` are the pack's."""
        return losses_of_outputs(self._loss, self._program(self._known.evaluation, features).outputs(), targets)

    def _program(self, make: Callable[..., Program], features: torch.Tensor) -> Program:
        key = make.__name__, features.shape
        if key not in self._made:
            self._made[key] = make(self._params, features)
        program = self._made[key]
        program.features.copy_(features)
        return program


def batched(net: Network) -> Batched | None:
    """Return the network in batched form, or None if it has operations that are not known.

    The form is tried against the module itself: its graph need not show all that it does.
    """
    of = next(p for p in net.module.parameters() if p.requires_grad)
    samples = torch.randn(_TRIED_SAMPLES, net.width, generator=torch.Generator().manual_seed(0), dtype=of.dtype)
    try:
        found = Batched(net)
        return found if _is_the_same(found, net, samples) else None
    except (Unknown, Untraceable):
        return None


@torch.no_grad()
def _is_the_same(found: Batched, net: Network, samples: torch.Tensor) -> bool:
    made = torch.cat([p.detach().reshape(-1) for p in net.module.parameters() if p.requires_grad])
    params = torch.stack([made * (1 + trial / 8) for trial in range(_TRIED)])

    def output_sum(params: torch.Tensor) -> Any:
        return net.outputs(net.split(params), samples).square().sum() / 2

    program = found.training(params, samples)
    program.features.copy_(samples)
    program.slopes().copy_(program.outputs())
    ours = program.gradients()
    try:
        theirs = vmap(grad(output_sum))(params)
        with evaluating(net.module):
            expected = vmap(lambda row: net.outputs(net.split(row), samples))(params)
    except RuntimeError as error:  # check_module has tried it in training
        raise InvalidTask(str(error)) from error
    evaluation = found.evaluation(params, samples)
    evaluation.features.copy_(samples)
    return _close(ours, theirs) and _close(evaluation.outputs(), expected)


def _close(ours: torch.Tensor, theirs: torch.Tensor) -> bool:
    size = float(theirs.abs().max())
    return torch.allclose(ours, theirs, rtol=1e-3, atol=1e-4 * size)


def _write_slopes(loss: Loss, program: Program, goals: torch.Tensor) -> None:
    """Write the derivatives of the mean losses of a batch by the outputs.

    Args:
        loss: the loss.
        program: the program, whose (T, B) outputs are computed.
        goals: (B,) or (T, B) targets, with sample weights (B, 2) or (T, B, 2).
    """
    outputs, to = program.outputs(), program.slopes()
    count = outputs.shape[1]
    if loss.is_weighted or loss.name not in ("mse", "mae", "huber"):
        own = goals.ndim > 1 + loss.is_weighted
        to.copy_(vmap(grad(loss_function(loss)), in_dims=(0, 0 if own else None))(outputs, goals))
        return
    torch.sub(outputs, goals, out=to)
    if loss.name == "mse":
        to.mul_(2 / count)
    elif loss.name == "mae":
        to.sign_().div_(count)
    else:
        to.clamp_(-loss.huber_delta, loss.huber_delta).div_(count)
