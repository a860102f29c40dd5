"""The learning-rate schedules of a sweep file: torch.optim.lr_scheduler's, by torch's keyword names."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag
from pydantic_core import PydanticCustomError

from sweeps.config.base import Model
from sweeps.config.types import CUSTOM, Count, Factor, Flag, NotNegative, Positive, Share

if TYPE_CHECKING:
    from sgdcore import Schedule, Scheduler


class SchedulerConfig(Model):
    """A scheduler; rows are epochs or steps, as ``interval`` says."""

    interval: Literal["epoch", "step"] | None = None
    """Whether the lr changes after every epoch (the default) or after every step."""

    def scheduler(self, changes: dict[str, Any]) -> Scheduler:
        """Return the engine's scheduler, with other values of some options."""
        from sgdcore import Scheduler  # numpy takes long to import

        options = self.model_dump(exclude={"kind", "interval"}) | changes
        return Scheduler(self.kind, **options)  # type: ignore[attr-defined]


class ConstantConfig(SchedulerConfig):
    """ConstantLR: lr times ``factor`` for the first rows."""

    kind: Literal["constant"]
    """Multiply the lr by a factor for the first rows (ConstantLR)."""
    factor: Factor = 1 / 3
    """The factor."""
    total_iters: Count = 5
    """The number of rows with the factor."""


class StepConfig(SchedulerConfig):
    """StepLR: lr times ``gamma`` after every ``step_size`` rows."""

    kind: Literal["step"]
    """Multiply the lr by gamma at regular intervals (StepLR)."""
    step_size: Count
    """The rows between two changes."""
    gamma: Positive = 0.1
    """The factor of each change."""


class MultiStepConfig(SchedulerConfig):
    """MultiStepLR: lr times ``gamma`` at each milestone."""

    kind: Literal["multistep"]
    """Multiply the lr by gamma at the milestones (MultiStepLR)."""
    milestones: Annotated[tuple[Count, ...], Field(min_length=1)]
    """The rows at which the lr changes."""
    gamma: Positive = 0.1
    """The factor of each change."""


class ExponentialConfig(SchedulerConfig):
    """ExponentialLR: lr times ``gamma`` after every row."""

    kind: Literal["exponential"]
    """Multiply the lr by gamma after every row (ExponentialLR)."""
    gamma: Positive
    """The factor of each row."""


class LinearConfig(SchedulerConfig):
    """LinearLR: lr times a factor that changes linearly, as in warm-up."""

    kind: Literal["linear"]
    """Change the lr linearly, as in a warm-up (LinearLR)."""
    start_factor: Factor = 1 / 3
    """The factor of the first row."""
    end_factor: Share = 1.0
    """The factor at the end."""
    total_iters: Count = 5
    """The rows from the first factor to the last."""


class CosineConfig(SchedulerConfig):
    """CosineAnnealingLR: lr falls to ``eta_min`` along half a cosine."""

    kind: Literal["cosine"]
    """Lower the lr along half a cosine (CosineAnnealingLR)."""
    T_max: Count | None = None
    """The rows from the highest lr to the lowest. By default the rest of the run."""
    eta_min: NotNegative = 0.0
    """The lowest lr."""


class CosineRestartsConfig(SchedulerConfig):
    """CosineAnnealingWarmRestarts: cosines that start again, each ``T_mult`` times as long as the one before."""

    kind: Literal["cosine_restarts"]
    """Repeat falling cosines (CosineAnnealingWarmRestarts)."""
    T_0: Count
    """The rows of the first cosine."""
    T_mult: Count = 1
    """The factor by which each cosine is longer than the one before."""
    eta_min: NotNegative = 0.0
    """The lowest lr."""


class PolynomialConfig(SchedulerConfig):
    """PolynomialLR: lr falls to 0 as a power of what remains."""

    kind: Literal["polynomial"]
    """Lower the lr to 0 as a power of the remaining share (PolynomialLR)."""
    total_iters: Count = 5
    """The rows until the lr is 0."""
    power: NotNegative = 1.0
    """The power; 1 is a straight line."""


class OneCycleConfig(SchedulerConfig):
    """OneCycleLR: lr rises to ``max_lr`` and falls again, while the momentum does the opposite."""

    kind: Literal["onecycle"]
    """Raise the lr to its maximum and lower it again; the momentum does the opposite (OneCycleLR)."""
    max_lr: Positive | None = None
    """The highest lr. By default the trial's lr."""
    total_steps: Count | None = None
    """The rows of the cycle. By default the whole run."""
    pct_start: Share = 0.3
    """The share of the cycle in which the lr rises."""
    anneal_strategy: Literal["cos", "linear"] = "cos"
    """The shape of both parts."""
    cycle_momentum: Flag = True
    """Whether the momentum cycles too; the trial's own momentum is then not used."""
    base_momentum: Positive = 0.85
    """The lowest momentum, at the highest lr."""
    max_momentum: Positive = 0.95
    """The highest momentum."""
    div_factor: Positive = 25.0
    """The highest lr divided by the first."""
    final_div_factor: Positive = 1e4
    """The first lr divided by the last."""
    three_phase: Flag = False
    """Whether the lr first returns to its initial value, and then falls to the lowest."""


AnyScheduler = Annotated[
    ConstantConfig
    | StepConfig
    | MultiStepConfig
    | ExponentialConfig
    | LinearConfig
    | CosineConfig
    | CosineRestartsConfig
    | PolynomialConfig
    | OneCycleConfig,
    Field(discriminator="kind"),
]


class SequentialConfig(Model):
    """SequentialLR: schedulers one after the other."""

    kind: Literal["sequential"]
    """Several schedulers, one after the other (SequentialLR)."""
    schedulers: Annotated[tuple[AnyScheduler, ...], Field(min_length=1)]
    """The schedulers in order."""
    milestones: tuple[Count, ...] | None = None
    """The rows at which the second scheduler and those after it start. By default each takes its own length."""


def _form(given: Any) -> str:
    if isinstance(given, list | tuple):
        return "list"
    kind = given.get("kind") if isinstance(given, dict) else getattr(given, "kind", None)
    return "sequential" if kind == "sequential" else "one"


ScheduleConfig = Annotated[
    Annotated[AnyScheduler, Tag("one")]
    | Annotated[SequentialConfig, Tag("sequential")]
    | Annotated[tuple[AnyScheduler, ...], Field(min_length=1), Tag("list")],
    Discriminator(_form),
]
"""A scheduler, a list of them in sequence, or a sequence with milestones."""


def schedulers(config: Any) -> tuple[SchedulerConfig, ...]:
    """Return the schedulers of a schedule in order."""
    if isinstance(config, SequentialConfig):
        return config.schedulers
    return config if isinstance(config, tuple) else (config,)


def schedule(config: Any, changes: dict[tuple[int, str], float] | None = None) -> Schedule:
    """Return the engine's schedule.

    Args:
        config: a ScheduleConfig.
        changes: other values of some options, by the scheduler's place and the option's name.

    Raises:
        InvalidHyperparams: the schedulers do not fit each other, or a value is invalid.
    """
    from sgdcore import InvalidHyperparams, Schedule

    parts = schedulers(config)
    intervals = {part.interval for part in parts if part.interval is not None}
    if len(intervals) > 1:
        raise InvalidHyperparams("all schedulers of a sequence must have the same interval")
    made = [
        part.scheduler({name: value for (place, name), value in (changes or {}).items() if place == index})
        for index, part in enumerate(parts)
    ]
    milestones = config.milestones if isinstance(config, SequentialConfig) else None
    return Schedule(*made, milestones=milestones, interval=intervals.pop() if intervals else "epoch")


def numbers(config: Any) -> dict[str, tuple[int, str]]:
    """Return the numbers of a schedule that can be axes: ``schedule.NAME``, or ``schedule.PLACE.NAME`` in a sequence.

    Each maps to the scheduler's place and the option's name.
    """
    parts = schedulers(config)
    found = {}
    for place, part in enumerate(parts):
        for name in type(part).model_fields:
            if name not in ("kind", "interval", "milestones", "anneal_strategy"):
                found[f"schedule.{place}.{name}"] = (place, name)
                if len(parts) == 1:
                    found[f"schedule.{name}"] = (place, name)
    return found


def written(config: Any, name: str) -> float:
    """Return the value of an axis of :func:`numbers` in the sweep file; NaN where the run decides it."""
    place, option = numbers(config)[name]
    value = getattr(schedulers(config)[place], option)
    return math.nan if value is None else float(value)


def checked(config: Any) -> Any:
    """Return the schedule if the engine accepts it."""
    from sgdcore import InvalidHyperparams

    try:
        schedule(config)
    except InvalidHyperparams as error:
        raise PydanticCustomError(CUSTOM, "{problem}", {"problem": str(error)}) from error
    return config
