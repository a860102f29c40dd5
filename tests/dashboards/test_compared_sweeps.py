"""The dashboard compares sweeps by the same rules as the command."""

from collections.abc import Callable

import pytest

from dashboards.store_cache import Catalogue
from sweeps.errors import InputError
from sweeps.planning.prepared import PreparedSweep
from sweeps.store.store import Store
from tests.support.stores import computed_into

Prepare = Callable[..., PreparedSweep]
IDS = ["aaaaaaaa", "bbbbbbbb"]


def test_unlike_losses_are_not_compared(make_prepared: Prepare, store: Store) -> None:
    huber = {"dataset": {"kind": "line"}, "model": {"kind": "linear"}, "loss": "huber", "huber_delta": 0.5}
    computed_into(store, IDS[0], make_prepared())
    computed_into(store, IDS[1], make_prepared(task=huber))
    with pytest.raises(InputError, match=r"sweep bbbbbbbb: its loss is huber with huber_delta 0\.5, that of aaaaaaaa"):
        compared(store)


def test_sweeps_with_different_metrics_are_compared_by_the_training_loss(make_prepared: Prepare, store: Store) -> None:
    for sweep_id, metric in zip(IDS, ("final_loss", "best_loss"), strict=True):
        computed_into(store, sweep_id, make_prepared(metric={"name": metric}))
    assert compared(store) == ["final_loss", "final_loss"]


def compared(store: Store) -> list[str]:
    catalogue = Catalogue(store)
    while (found := catalogue.compared(IDS)) is None:
        pass
    return [results.metric for results in found.comparison.sweeps]
