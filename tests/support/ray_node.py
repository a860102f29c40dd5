"""A node of a Ray cluster on loopback, until SIGTERM: python -m tests.support.ray_node GCS_ADDRESS CORES

``ray start --address`` rejects the variable that keeps Ray on loopback; ray.cluster_utils creates its nodes like this.
"""

import signal
import sys

from ray._private.node import Node
from ray._private.parameter import RayParams


def main(address: str, cores: str) -> None:
    """Join, report it, and wait for the signal."""
    params = RayParams(
        gcs_address=address,
        num_cpus=int(cores),
        num_gpus=0,
        node_ip_address="127.0.0.1",
        node_manager_port=0,
        min_worker_port=0,
        max_worker_port=0,
        object_store_memory=100_000_000,
        include_log_monitor=False,
    )
    params.dashboard_agent_listen_port = None  # type: ignore[assignment] # any port
    node = Node(params, head=False, shutdown_at_exit=True, spawn_reaper=True)
    sys.stdout.write(f"node {node.unique_id} has joined\n")
    sys.stdout.flush()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    while True:
        signal.pause()


if __name__ == "__main__":
    main(*sys.argv[1:])
