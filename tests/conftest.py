"""Hypothesis for all tests: no deadlines; on CI (CI=true) the same examples every time. Slow tests run last,
tests on CUDA only where there is a GPU."""

import os
from collections import Counter

import pytest
from hypothesis import settings

from sgdcore.devices import gpus

settings.register_profile("local", deadline=None, max_examples=40)
settings.register_profile("ci", settings.get_profile("local"), derandomize=True, database=None)
settings.load_profile("ci" if os.environ.get("CI") == "true" else "local")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--chaos-rounds", type=int, help="how often each fault of test_chaos.py is tried")
    parser.addoption("--chaos-seed", type=int, default=0, help="of its first round")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    slow = Counter(item.path for item in items if item.get_closest_marker("cluster"))

    def late(item: pytest.Item) -> tuple[bool, int]:
        """Slow tests last, of these the files with few of them: whole files are shared among processes."""
        is_slow = item.get_closest_marker("cluster") is not None
        return is_slow, -slow[item.path] if is_slow else 0

    items.sort(key=late)
    if not gpus():
        needing = [item for item in items if item.get_closest_marker("cuda")]
        items[:] = [item for item in items if not item.get_closest_marker("cuda")]
        config.hook.pytest_deselected(items=needing)
