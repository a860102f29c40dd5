"""ExpectedOutcome: an expected case of the sweep file and the stored trial that matches it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ExpectedOutcome:
    """One trial of an expected case and its outcome; ``trial`` is None if no stored trial matches the case."""

    case: str
    trial: int | None
    lr: float | None
    momentum: float | None
    weight_decay: float | None
    final: dict[str, float]  # final parameters by name; NaN if not finite
    published: dict[str, float] | None  # None if the expected result is that of torch.optim.SGD
    reference: bool
    decimals: int  # decimal places to which published figures are compared
    matches: bool
    exact: bool  # bit-for-bit equal to torch.optim.SGD, not only within rounding
    verdict: str | None
    overshoot_percent: float | None
    overshoot_parameter: str | None
    peak_value: float | None
    target: float | None  # of the parameter that overshot
