"""ExpectedOutcome: an expected case of the sweep file beside the trial that was found."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ExpectedOutcome:
    """One trial of an expected case and what came out; ``trial`` is None where no stored trial is that case."""

    case: str
    trial: int | None
    lr: float | None
    momentum: float | None
    weight_decay: float | None
    final: dict[str, float]  # NaN where not finite
    published: dict[str, float] | None  # None where torch.optim.SGD itself is what is expected
    reference: bool
    decimals: int  # to which published figures are compared
    matches: bool
    exact: bool  # equal to torch.optim.SGD bit for bit, not only to rounding
    verdict: str | None
    overshoot_percent: float | None
    overshoot_parameter: str | None
    peak_value: float | None
    target: float | None  # of the parameter that overshot
