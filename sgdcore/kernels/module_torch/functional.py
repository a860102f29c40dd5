"""A module as a function of its parameters: torch.func computes gradients and outputs for a pack of trials."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, lru_cache, partial
from threading import Lock
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController
from torch.func import functional_call, grad, vmap
from torch.nn import functional

from sgdcore.errors import InvalidTask
from sgdcore.kernels.module_torch.traced import Traced
from sgdcore.tasks.initialisation import initialised, undrawn
from sgdcore.tasks.losses import VARIANCE_EPS, Loss
from sgdcore.tasks.models import Model
from sgdcore.tasks.task import Task, goals

T = TypeVar("T")
Parameters = dict[str, torch.Tensor]
LossFunction = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


_WARNINGS = Lock()  # the filters of warnings belong to all threads


class Network:
    """A model's module without values for its trainable parameters. Parameters of T trials are flat (T, P) rows."""

    def __init__(self, model: Model, width: int, dtype: str, device: str) -> None:
        """Build the module once; its buffers and frozen parameters are shared by all trials.

        Raises:
            InvalidTask: buffers or frozen parameters depend on the seed, or there is nothing to train.
        """
        self.module, self.width = initialised(model, width, 0, dtype).to(device), width
        other = initialised(model, width, 1, dtype).state_dict()
        trained = {name: p for name, p in self.module.named_parameters() if p.requires_grad}
        tied = {name for name, p in self.module.named_parameters(remove_duplicate=False) if p.requires_grad}
        fixed = {name: values for name, values in self.module.state_dict().items() if name not in tied}
        for name, values in fixed.items():
            if not torch.equal(values.cpu(), other[name]):
                raise InvalidTask(
                    f"module: {name!r} is random but not trained: make it a parameter or give it a fixed seed"
                )
        if not trained:
            raise InvalidTask("module: it has no trainable parameters")
        self.names, self.shapes = list(trained), [p.shape for p in trained.values()]
        self.sizes = [p.numel() for p in trained.values()]
        self.checked: set[int] = set()  # batch sizes
        self._made: dict[Any, Any] = {}

    def once(self, make: Callable[..., T], *arguments: Any) -> T:
        """Return ``make(self, *arguments)``, which is called once for these arguments."""
        key = (make, *arguments)
        if key not in self._made:
            self._made[key] = make(self, *arguments)
        made: T = self._made[key]
        return made

    def outputs(self, params: Parameters, features: torch.Tensor) -> torch.Tensor:
        """Return (B,) outputs, or (B, outputs) of several, for one trial's parameters and (B, k) features."""
        return as_targets(functional_call(self.module, params, (features,)))

    def split(self, flat: torch.Tensor) -> Parameters:
        """Return (..., P) flat parameters as the module's tensors, (..., *shape); views."""
        parts = torch.split(flat, self.sizes, dim=-1)
        leading = flat.shape[:-1]
        return {n: p.view(*leading, *s) for n, p, s in zip(self.names, parts, self.shapes, strict=True)}

    def join(self, params: Parameters) -> torch.Tensor:
        """Invert :meth:`split` for (T, *shape) tensors."""
        return torch.cat([params[name].reshape(len(params[name]), -1) for name in self.names], dim=1)


@contextmanager
def network(model: Model, width: int, dtype: str, device: str) -> Iterator[Network]:
    """Yield a network of the model that no other thread uses meanwhile; recorded and compiled steps stay with it."""
    unused = _unused(model, width, dtype, device)
    try:
        net = unused.pop()
    except IndexError:
        net = Network(model, width, dtype, device)
    yield net  # after an error it is not used again: torch.func may have left another trial's values in its module
    unused.append(net)


@lru_cache(maxsize=8)
def _unused(model: Model, width: int, dtype: str, device: str) -> list[Network]:
    return []


def as_targets(outputs: torch.Tensor) -> torch.Tensor:
    """Return a module's outputs in the shape of targets: (B,) for one."""
    return outputs[:, 0] if outputs.ndim == 2 and outputs.shape[1] == 1 else outputs


@lru_cache(maxsize=8)
def loss_function(loss: Loss) -> LossFunction:
    """Return the mean loss over a batch of outputs and goals, as in torch.nn.functional.

    Goals are targets; with sample weights a last column holds these.
    """
    if loss.is_weighted:
        each = _losses(loss, "none")

        def weighted(outputs: torch.Tensor, goals: torch.Tensor) -> torch.Tensor:
            losses = each(outputs, as_targets(goals[:, :-1]))
            return (losses * (goals[:, -1] if losses.ndim == 1 else goals[:, -1:])).mean()

        return weighted
    return _losses(loss, "mean")


def _losses(loss: Loss, reduction: str) -> LossFunction:
    """Return the losses of outputs and targets, or their mean."""
    match loss.name:
        case "mse":
            return partial(functional.mse_loss, reduction=reduction)
        case "mae":
            return partial(functional.l1_loss, reduction=reduction)
        case "huber":
            return partial(functional.huber_loss, delta=loss.huber_delta, reduction=reduction)
        case "poisson_nll":
            return partial(functional.poisson_nll_loss, log_input=True, full=False, reduction=reduction)
        case "log_cosh":
            return _reduced(log_cosh, reduction)
        case "quantile":
            return _reduced(partial(pinball, quantile=loss.quantile), reduction)
        case _:
            return _reduced(_gaussian_nll, reduction)


def _reduced(losses: LossFunction, reduction: str) -> LossFunction:
    return losses if reduction == "none" else lambda outputs, targets: losses(outputs, targets).mean()


def log_cosh(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return log(cosh(error)), without its overflow for large errors."""
    errors = outputs - targets
    return errors + functional.softplus(-2 * errors) - math.log(2)


def pinball(outputs: torch.Tensor, targets: torch.Tensor, quantile: float) -> torch.Tensor:
    """Return the losses of a quantile."""
    errors = targets - outputs
    return torch.maximum(quantile * errors, (quantile - 1) * errors)


def mean_and_variance(outputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the means and variances of the outputs of a model with gaussian_nll."""
    mean, variance = outputs.chunk(2, dim=1)
    return as_targets(mean), functional.softplus(as_targets(variance))


def _gaussian_nll(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return the losses of functional.gaussian_nll_loss, whose checks of values torch.func cannot run."""
    mean, variance = mean_and_variance(outputs)
    # As in torch, the gradient ignores the clamp.
    variance = torch.where(variance < VARIANCE_EPS, variance - variance.detach() + VARIANCE_EPS, variance)
    return 0.5 * (torch.log(variance) + (mean - targets) ** 2 / variance)


def gradients(net: Network, loss: LossFunction, own_samples: bool) -> Traced:
    """Return a function of (T, P) parameters, (B, k) features and (B, ...) goals that returns (T, P) gradients.

    These are gradients of the batch's mean loss. With ``own_samples`` every trial has its own batch: (T, B, k) and
    (T, B, ...).
    """

    def batch_loss(params: Parameters, features: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return loss(net.outputs(params, features), targets)

    samples = 0 if own_samples else None
    of_pack = vmap(grad(batch_loss), in_dims=(0, samples, samples))
    return Traced(lambda params, features, targets: net.join(of_pack(net.split(params), features, targets)))


def summed_losses(net: Network, loss: LossFunction) -> Traced:
    """Return a function of (T, P) parameters, (B, k) features and (B, ...) goals: (T,) float64 sums of their losses."""

    def one(params: Parameters, features: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return loss(net.outputs(params, features).double(), targets.double()) * len(targets)

    of_pack = vmap(one, in_dims=(0, None, None))
    return Traced(lambda params, features, targets: of_pack(net.split(params), features, targets))


def losses_of_outputs(loss: Loss, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return the (T,) float64 sums of the losses of (T, B) outputs and (B, ...) goals."""
    goals, of_batch = targets.double(), loss_function(loss)
    if loss.name == "mse" and not loss.is_weighted:
        return (outputs.double() - goals).square_().sum(1)
    return vmap(lambda row: of_batch(row, goals) * len(goals))(outputs.double())


def is_by_sample(net: Network, features: torch.Tensor) -> bool:
    """Return whether, in evaluation, a sample's output does not depend on the other samples of its batch."""
    half = len(features) // 2
    with evaluating(net.module):
        parts = torch.cat([net.outputs({}, part) for part in (features[:half], features[half:]) if len(part)])
        return torch.allclose(net.outputs({}, features), parts, rtol=1e-3, atol=1e-6, equal_nan=True)


def saved_bytes(net: Network, samples: tuple[torch.Tensor, torch.Tensor], loss: LossFunction) -> int:
    """Return the bytes that autograd keeps for one trial's forward pass over these samples, without parameters."""
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.data_ptr()] = tensor.numel() * tensor.element_size()
        return tensor

    own = {p.data_ptr() for p in net.module.parameters()}
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss(net.outputs({}, samples[0]), samples[1])
    return sum(size for place, size in kept.items() if place not in own)


def check_module(task: Task, dtype: str, batch_size: int) -> None:
    """Try a step of the task's module alone and in a pack.

    Raises:
        InvalidTask: its output has another shape than the targets and the loss need, a parameter does not affect it,
            or it changes its buffers, draws random numbers, or cannot run for several trials at a time.
    """
    with network(task.model, task.features.shape[1], dtype, "cpu") as net:
        sizes = {min(batch_size, task.samples), task.samples % batch_size or batch_size}
        if sizes <= net.checked:
            return
        loss = loss_function(task.criterion)
        features, targets = tensors((task.features.astype(dtype), goals(task.dataset, dtype)), "cpu")
        before = {name: values.clone() for name, values in net.module.state_dict().items()}
        for size in sorted(sizes):
            _try_alone(net, task.criterion, features[:size], targets[:size])
            _try_in_a_pack(net, loss, features[:size], targets[:size])
        changed = [name for name, values in net.module.state_dict().items() if not torch.equal(values, before[name])]
        if changed:
            raise InvalidTask(
                f"module: training changes its buffer {changed[0]!r}; running statistics per trial are not supported: "
                "use BatchNorm with track_running_stats=False, LayerNorm or GroupNorm"
            )
        net.checked.update(sizes)


def tensors(samples: tuple[NDArray[Any], NDArray[Any]], device: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return features and targets on a device; torch takes no arrays that cannot be written."""
    features, targets = (torch.from_numpy(np.require(array, requirements="W")).to(device) for array in samples)
    return features, targets


@contextmanager
def evaluating(module: torch.nn.Module) -> Iterator[None]:
    """Put the module into evaluation mode without gradients inside the context; then restore every part's mode."""
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for part, mode in modes.items():
            part.training = mode


@contextmanager
def torch_threads(threads: int) -> Iterator[None]:
    """Limit the threads of torch's operations inside the context, in this thread only.

    torch.set_num_threads would also change what other threads start with.
    """
    torch.get_num_threads()  # the first call in a thread sets its number
    with _openmp().limit(limits=min(threads, len(os.sched_getaffinity(0)))):
        yield


@cache
def _openmp() -> ThreadpoolController:
    return ThreadpoolController().select(user_api="openmp")


def _try_alone(net: Network, loss: Loss, features: torch.Tensor, targets: torch.Tensor) -> None:
    batch = len(targets)
    try:
        with undrawn():
            raw = net.module(features)
    except Exception as error:  # the user's module can raise anything
        raise InvalidTask(f"module: it fails on a batch of {batch}: {type(error).__name__}: {_line(error)}") from error
    allowed = [(batch, loss.outputs)] + ([(batch,)] if loss.outputs == 1 else [])
    if not isinstance(raw, torch.Tensor) or tuple(raw.shape) not in allowed:
        shape = tuple(raw.shape) if isinstance(raw, torch.Tensor) else type(raw).__name__
        shapes, why = " or ".join(map(str, allowed)), _why_outputs(loss)
        raise InvalidTask(f"module: its output for a batch of {batch} must be {shapes}, not {shape}{why}")
    trained = [p for p in net.module.parameters() if p.requires_grad]
    parts = torch.autograd.grad(loss_function(loss)(as_targets(raw), targets), trained, allow_unused=True)
    for name, part in zip(net.names, parts, strict=True):
        if part is None:
            raise InvalidTask(f"module: its parameter {name!r} does not affect the output: use it or freeze it")


def _why_outputs(loss: Loss) -> str:
    """Return why a module needs more than one output."""
    if loss.name == "gaussian_nll":
        return ": gaussian_nll needs a mean per target, then a variance (before softplus) per target"
    return f": there are {loss.targets} targets" if loss.targets > 1 else ""


def _try_in_a_pack(net: Network, loss: LossFunction, features: torch.Tensor, targets: torch.Tensor) -> None:
    values = {name: p.detach() for name, p in net.module.named_parameters() if p.requires_grad}
    pack = {name: torch.stack([value, value]) for name, value in values.items()}
    try:
        with _WARNINGS, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns if vmap is slow
            gradients(net, loss, own_samples=False)(net.join(pack), features, targets)
    except RuntimeError as error:
        if "randomness" in str(error):
            raise InvalidTask(
                "module: it draws random numbers in training, which is not supported: remove dropout and the like"
            ) from error
        if "running_mean" in str(error) or "in-place" in str(error):
            return  # the caller reports changed buffers by name
        raise InvalidTask(f"module: it cannot run for several trials at a time: {_line(error)}") from error


def _line(error: Exception) -> Any:
    return str(error).strip().partition("\n")[0]
