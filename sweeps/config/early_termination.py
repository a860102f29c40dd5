"""Early termination: trials that are worse than others stop before their last epoch."""

from __future__ import annotations

from typing import Literal

from sweeps.config.base import Model
from sweeps.config.types import Count, Flag, Ratio


class EarlyTermination(Model):
    """Train all trials to a rung, stop the worse ones, and train the others on from their states.

    The rungs are at the last epoch divided by powers of eta, down to ``min_epochs``. Trials that stop are pruned. Those
    that are trained to the end have the bits that they have without early termination.
    """

    type: Literal["hyperband", "successive_halving", "median"]
    """successive_halving: at each rung, the best 1/eta go on. hyperband: the same in brackets that start at different
    rungs, the later the fewer trials. median: at each rung, trials worse than the median of all trials there stop.
    """
    eta: Ratio = 3.0
    """The ratio of the epochs of successive rungs; halving keeps a share of 1/eta."""
    min_epochs: Count = 1
    """The epochs of the first rung, at least."""
    keep_states: Flag = False
    """Whether to keep the states of the trials after the sweep."""
