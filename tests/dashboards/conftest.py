"""What the dashboard's tests share: the service's fixtures, and a sweep that makes a map."""

from collections.abc import Callable

import pytest

from sweeps.planning.prepared import PreparedSweep

PARAMETERS = {
    "lr": {"min": 0.002, "max": 0.3, "count": 12, "scale": "log"},
    "momentum": {"values": [0, 0.5, 0.9]},
    "nesterov": {"values": [False, True]},
    "init.weight": {"values": [-0.66, 1.0]},
    "init.bias": {"value": 0.33},
}


@pytest.fixture
def line(make_prepared: Callable[..., PreparedSweep]) -> PreparedSweep:
    """120 trials, a map of two panels, two trials a cell."""
    return make_prepared(parameters=PARAMETERS, training={"epochs": 60}, execution={"trials_per_shard": 30})
