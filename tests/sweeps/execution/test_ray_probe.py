"""Addresses that are no Ray cluster's, in one line that says which are."""

import pytest

from sweeps.errors import ExecutorError
from sweeps.execution.ray_probe import probe


@pytest.mark.parametrize("address", ["", "host", "host:", "host:port", "http://host:8265", "a/b:1"])
def test_an_address_that_cannot_be_ones(address: str) -> None:
    with pytest.raises(
        ExecutorError, match=r"\(--address or RAY_ADDRESS\): must be auto, HOST:PORT or ray://HOST:PORT"
    ):
        probe(address)
