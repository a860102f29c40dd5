"""A private Ray cluster: real nodes on loopback, each with its own processes, which are killed together."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from sweeps.execution.ray import loopback_environment
from tests.support.processes import descendants, kill

LEAST_OBJECT_STORE = 78_643_200  # bytes; Ray's minimum
_CHECKS = {"period_ms": 1000, "timeout_ms": 2000, "failure_threshold": 3, "initial_delay_ms": 1000}


class RayCluster:
    """A head and the nodes added to it. Its processes are those of ray.cluster_utils."""

    def __init__(self, cluster: Any) -> None:
        self._cluster = cluster
        self.address: str = cluster.address

    def add(self, cores: int) -> Any:
        """Add a node; return when the head has registered it."""
        return self._cluster.add_node(num_cpus=cores, **_NODE)

    def kill(self, node: Any) -> None:
        """Kill all processes of a node without warning, like a power failure."""
        processes = [info.process.pid for infos in node.all_processes.values() for info in infos]
        for pid in [*processes, *(pid for process in processes for pid in descendants(process))]:
            kill(pid)
        node.kill_all_processes(check_alive=False, allow_graceful=False, wait=True)
        self._cluster.worker_nodes.discard(node)

    def kill_head(self) -> None:
        """Kill the head like a node; the cluster's state is lost."""
        head, self._cluster.head_node = self._cluster.head_node, None
        if head is not None:
            self.kill(head)

    @property
    def environment(self) -> dict[str, str]:
        """The environment that a process needs to join."""
        return {name: value for name, value in os.environ.items() if name.startswith("RAY_AUTH_")}

    def end(self) -> None:
        """Kill all remaining nodes."""
        for node in list(self._cluster.worker_nodes):
            self.kill(node)
        self.kill_head()
        self._cluster.shutdown()


_NODE = {"node_ip_address": "127.0.0.1", "object_store_memory": LEAST_OBJECT_STORE, "include_dashboard": False}


@contextmanager
def ray_cluster(cores: int) -> Iterator[RayCluster]:
    """Run a cluster that starts with a head only and notices dead nodes within seconds."""
    loopback_environment()
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        for name, value in _CHECKS.items():
            patch.setenv(f"RAY_health_check_{name}", str(value))
        patch.setenv("RAY_worker_niceness", "0")  # on a busy machine they would hardly run
        cluster = RayCluster(Cluster(initialize_head=True, head_node_args={"num_cpus": cores, **_NODE}))
        try:
            yield cluster
        finally:
            cluster.end()
