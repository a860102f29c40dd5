"""The Ray executor: shards as Ray tasks, on a cluster or on a local Ray that listens on loopback only."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import secrets
import signal
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from sweeps.config.schema import SweepConfig
from sweeps.errors import ClusterLost, ExecutorError
from sweeps.execution.executor import ShardOutcome
from sweeps.execution.ray_probe import answers, probe
from sweeps.execution.worker import run_shard
from sweeps.plan.prepared import PreparedSweep
from sweeps.plan.shards import Shard, ShardFailure

if TYPE_CHECKING:
    from sweeps.execution.progress import Counts

IN_FLIGHT_PER_CORE = 2  # or per GPU: enough to keep it busy while a result travels
_LOOK_SECONDS = 2.0  # between looks at how large the cluster is, which may grow and shrink
_LOST_SECONDS = 30.0  # without its head, which may be back in 10; after 60 Ray would end this process on the spot


class RayExecutor:
    """Runs shards as Ray tasks of one core each, and of one GPU each where the sweep may use the cluster's GPUs.

    Args:
        address: a running cluster (``auto``, ``HOST:PORT`` or ``ray://HOST:PORT``), or None for a Ray of its own.
    """

    def __init__(self, address: str | None = None) -> None:
        """Nothing is started yet."""
        self.address = address
        self.in_flight = 0
        self._ray: Any = None
        self._resources: dict[str, int] = {}  # the cluster's cores and GPUs
        self._looked = self._answered = 0.0  # when that was asked for, and when there was somebody to ask
        self._head = self._node = ""  # HOST:PORT of the cluster's head, and of the node that this process is on

    @property
    def description(self) -> str:
        """Where the tasks run."""
        where = f"Ray at {self.address}" if self.address else "local Ray"
        if self._ray is None:
            return where
        nodes = sum(node["Alive"] for node in self._ray.nodes())
        cores = self.cores
        gpus = f", {self._gpus} GPU{'s' * (self._gpus != 1)}" if self._gpus else ""
        return f"{where}: {nodes} node{'s' * (nodes != 1)}, {cores} core{'s' * (cores != 1)}{gpus}"

    @property
    def cores(self) -> int:
        """All nodes' together, as far as they have joined."""
        return int(self._ray.cluster_resources().get("CPU", 0))

    @property
    def _gpus(self) -> int:
        return int(self._ray.cluster_resources().get("GPU", 0))

    def start(self) -> None:
        """Join the cluster, or start a local Ray: loopback only, with a token, without dashboard or usage reports.

        Raises:
            ExecutorError: the cluster cannot be joined.
        """
        if self._ray is not None:
            return
        _quiet_environment()
        if self.address is None:
            loopback_environment()
        else:
            probe(self.address)
        import ray

        options: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False, "configure_logging": False}
        if self.address is None:
            options |= {"address": "local", "include_dashboard": False, "_node_ip_address": "127.0.0.1"}
        else:
            options |= {"address": self.address}
        try:
            with _stderr_to_null(), _own_signals():
                ray.init(**options)
        except Exception as error:  # Ray raises all kinds, Exception itself where its processes are slow to come up
            where = self.address or "this machine"
            raise ExecutorError(f"Ray at {where} cannot be joined: {_first_line(error)}") from error
        self._ray = ray
        self._answered = time.monotonic()
        if self.address is not None and self.address.startswith("ray://"):
            self._head, self._node = self.address, ""  # the client's server stands for both
            return
        context = ray.get_runtime_context()
        self._head = context.gcs_address
        own = next(node for node in self._ray.nodes() if node["NodeID"] == context.get_node_id())
        self._node = f"{own['NodeManagerAddress']}:{own['NodeManagerPort']}"

    def check(self, device: str) -> None:
        """Whether the cluster has GPUs, where they are asked for.

        Raises:
            ExecutorError: it has none, or one of a number is asked for, which no task can choose.
        """
        if device.startswith("cuda:"):
            raise ExecutorError(f"training.device: on Ray, tasks are given GPUs: ask for cuda, not for {device}")
        if device == "cuda" and not self._gpus:
            raise ExecutorError(f"training.device: cuda needs a GPU, and there is none on {self.description}")

    def on_cpu(self, device: str) -> bool:
        """Whether a sweep that asks for this device is trained on CPUs only: no task is given a GPU."""
        return device == "cpu" or not self._gpus

    def run(self, prepared: PreparedSweep, shards: Iterable[Shard]) -> Generator[ShardOutcome, None, None]:
        """Results in the order in which tasks finish; at most IN_FLIGHT_PER_CORE tasks a core or GPU are submitted.

        A shard whose worker or node dies is run again by Ray, ``execution.max_retries`` times.

        Raises:
            ClusterLost: the cluster's head, or this driver's node, is gone.
        """
        ray = self._ray
        on_gpus = not self.on_cpu(prepared.config.training.device)
        here = _on(prepared.config, prepared.config.training.device, on_gpus)
        with self._attached():
            shared = ray.put(dataclasses.replace(prepared, config=here, threads=1))
        retries = prepared.config.execution.max_retries
        task = ray.remote(num_cpus=1, num_gpus=int(on_gpus), max_retries=retries)(run_shard)
        waiting: Iterator[Shard] = iter(shards)
        # Tasks in flight are left alone when the sweep stops: they end with the driver, and Ray ends the driver when it
        # is to cancel a task that completes just then.
        flying: dict[Any, Shard] = {}
        while True:
            limit = self._limit(on_gpus)  # anew: the cluster may have grown
            while len(flying) < limit and (shard := next(waiting, None)) is not None:
                with self._attached():
                    flying[task.remote(shared, shard)] = shard
            self.in_flight = len(flying)
            if not flying:
                return
            for reference in self._finished(list(flying)):
                yield self._outcome(reference, flying.pop(reference), retries)

    def meter(self, sweep_id: str, name: str) -> Callable[[Counts], None]:
        """What tells Ray's metrics how far a sweep is."""
        from sweeps.execution.ray_metrics import Meter

        return Meter(sweep_id, name)

    def _finished(self, flying: list[Any]) -> list[Any]:
        """A task that is done, if one is done soon."""
        with self._attached():
            ready, _ = self._ray.wait(flying, num_returns=1, timeout=_LOOK_SECONDS)
        return list(ready)

    def _limit(self, on_gpus: bool) -> int:
        """How many tasks to have submitted at once."""
        now = time.monotonic()
        if now - self._looked > _LOOK_SECONDS:
            self._looked = now
            if self._node and not (answers(self._node) or answers(self._node)):
                raise self._lost(f"the node of this process, {self._node}, is gone")
            if answers(self._head):  # else Ray would wait for it here
                self._answered = now
                with self._attached():
                    resources = self._ray.cluster_resources()
                self._resources = {name: int(resources.get(name, 0)) for name in ("CPU", "GPU")}
            elif now - self._answered > _LOST_SECONDS:
                raise self._lost(f"nobody has answered at {self._head} for {_LOST_SECONDS:.0f} s")
        return max(2, IN_FLIGHT_PER_CORE * self._resources.get("GPU" if on_gpus else "CPU", 0))

    @contextlib.contextmanager
    def _attached(self) -> Iterator[None]:
        """What Ray raises, of all kinds, where this process loses its node is one error."""
        try:
            yield
        except (self._ray.exceptions.RaySystemError, OSError) as error:
            raise self._lost(_first_line(error)) from error

    def _lost(self, reason: str) -> ClusterLost:
        self._ray = None  # to leave a cluster that is gone would take a minute
        return ClusterLost(f"Ray at {self.address or 'this machine'} is lost: {reason}")

    def _outcome(self, reference: Any, shard: Shard, retries: int) -> ShardOutcome:
        exceptions = self._ray.exceptions
        try:
            outcome: ShardOutcome = self._ray.get(reference)
        except exceptions.LocalRayletDiedError as error:
            raise self._lost(_first_line(error)) from error
        except exceptions.RayError as error:
            tries = 1 if isinstance(error, exceptions.RayTaskError) else retries + 1
            return ShardFailure(shard, f"{type(error).__name__}: {error}", tries)
        except OSError as error:  # not the task's, which come as RayTaskError
            raise self._lost(_first_line(error)) from error
        return outcome

    def stop(self) -> None:
        """Leave the cluster; a local Ray ends."""
        if self._ray is not None:
            self._ray.shutdown()
            self._ray, self._resources, self._looked = None, {}, 0.0


def _on(config: SweepConfig, device: str, on_gpus: bool) -> SweepConfig:
    """The config with the device as a task sees it: Ray shows it the one GPU that it is given, or none."""
    if device == "auto" and on_gpus:
        return config  # the GPU, if torch can use it there
    inside = "cuda:0" if device.startswith("cuda") else "cpu"
    return config.model_copy(update={"training": config.training.model_copy(update={"device": inside})})


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _quiet_environment() -> None:
    """Ray reads its switches from the environment; what the user has set stays."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # its change announces itself at every start


def loopback_environment() -> None:
    """Have what is started of Ray from here listen on loopback only, and refuse strangers.

    Raises:
        ExecutorError: Ray has been imported without that.
    """
    if "ray" in sys.modules and "RAY_AUTH_MODE" not in os.environ:
        raise ExecutorError(
            "a local Ray needs its settings before Ray is imported: set RAY_AUTH_MODE=token, "
            "or join a running cluster by its address"
        )
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    if "RAY_AUTH_MODE" not in os.environ:
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))


@contextlib.contextmanager
def _own_signals() -> Iterator[None]:
    """Ray replaces the handler of SIGTERM by one that ends the process on the spot; ours goes on to tidy up."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def _stderr_to_null() -> Iterator[None]:
    """Ray's start-up prints past Python's streams; a failure still comes as an exception."""
    saved, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(null)
