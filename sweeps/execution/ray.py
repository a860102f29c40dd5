"""The Ray executor, which runs shards as Ray tasks on a cluster, or on a local Ray that listens on loopback only."""

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
from sweeps.planning.model_kinds import module_folder
from sweeps.planning.prepared import PreparedSweep
from sweeps.planning.shards import Shard, ShardFailure

if TYPE_CHECKING:
    from sweeps.execution.progress import Counts

IN_FLIGHT_PER_CORE = 2  # or per GPU, to keep it busy while a result is transferred
_LOOK_SECONDS = 2.0  # between checks of the cluster's size, which can change
_WAITED_SHARE = 16  # of the tasks in flight, one in so many is waited for at a time
_SEVERAL_SECONDS = 0.2  # the longest wait for several tasks
_LOST_SECONDS = 30.0  # a head can restart in 10 s; after 60 s without it Ray would terminate this process


class RayExecutor:
    """An executor that runs each shard as a Ray task with one core, and one GPU if the sweep can use GPUs.

    Args:
        address: a running cluster (``auto``, ``HOST:PORT`` or ``ray://HOST:PORT``), or None to start a local Ray.
    """

    is_inline = False

    def __init__(self, address: str | None = None) -> None:
        """Create the executor without starting anything."""
        self.address = address
        self.in_flight = self.backlog = self.trial_steps = 0
        self._ray: Any = None
        self._resources: dict[str, int] = {}  # the cluster's cores and GPUs
        self._looked = self._answered = 0.0  # times of the last check, and of the head's last answer
        self._head = self._node = ""  # HOST:PORT of the cluster's head and of this process's node

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
    def is_local(self) -> bool:
        """Whether the tasks run on this host, because Ray was started for them."""
        return self.address is None

    @property
    def cores(self) -> int:
        """The number of CPU cores of all nodes that have joined."""
        return int(self._ray.cluster_resources().get("CPU", 0))

    @property
    def _gpus(self) -> int:
        return int(self._ray.cluster_resources().get("GPU", 0))

    def start(self) -> None:
        """Join the cluster, or start a local Ray on loopback, with a token, without a dashboard or usage reports.

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
        if not (self.address or "").startswith("ray://"):  # a Ray client leaves paths to its server
            options["job_config"] = ray.job_config.JobConfig()
            options["job_config"]._py_driver_sys_path = _NoFolders()
        try:
            with _stderr_to_null(), _own_signals():
                ray.init(**options)
        except Exception as error:  # Ray raises many types, and a plain Exception if its processes start slowly
            where = self.address or "this machine"
            remedy = "; set RAY_TMPDIR to a shorter path, such as /tmp" if "AF_UNIX" in str(error) else ""
            raise ExecutorError(f"Ray at {where} cannot be joined: {_first_line(error)}{remedy}") from error
        self._ray = ray
        self._answered = time.monotonic()
        if self.address is not None and self.address.startswith("ray://"):
            self._head, self._node = self.address, ""  # the Ray client server represents both
            return
        context = ray.get_runtime_context()
        self._head = context.gcs_address
        own = next(node for node in self._ray.nodes() if node["NodeID"] == context.get_node_id())
        self._node = f"{own['NodeManagerAddress']}:{own['NodeManagerPort']}"

    def check(self, device: str) -> None:
        """Check that the cluster has GPUs if the sweep requires one.

        Raises:
            ExecutorError: the cluster has no GPU, or the device has a number, which tasks on Ray cannot choose.
        """
        if device.startswith("cuda:"):
            raise ExecutorError(f"training.device: given {device}; on Ray use cuda, because Ray assigns the GPUs")
        if device == "cuda" and not self._gpus:
            raise ExecutorError(f"training.device: cuda needs a GPU, but {self.description} has none")

    def on_cpu(self, device: str) -> bool:
        """Return whether a sweep with this device is trained on CPUs only."""
        return device == "cpu" or not self._gpus

    def run(self, prepared: PreparedSweep, shards: Iterable[Shard]) -> Generator[ShardOutcome, None, None]:
        """Yield results as tasks finish; keep at most IN_FLIGHT_PER_CORE tasks per core or GPU in flight.

        Ray retries a shard whose worker or node dies up to ``execution.max_retries`` times.

        Raises:
            ClusterLost: the cluster's head or this driver's node is lost.
        """
        from sweeps.execution.ray_heartbeat import Heartbeats

        heartbeats = Heartbeats()
        on_gpus = not self.on_cpu(prepared.config.training.device)
        retries = prepared.config.execution.max_retries
        with self._attached():
            submit = self.submitter(prepared, heartbeats.run)
        waiting: Iterator[Shard] = iter(shards)
        # Tasks in flight are not cancelled when the sweep stops: they end with the driver, and Ray terminates a driver
        # that cancels a task at the moment when it completes.
        flying: dict[Any, Shard] = {}

        def submit_up_to(limit: int) -> None:
            while len(flying) < limit and (shard := next(waiting, None)) is not None:
                with self._attached():
                    flying[submit(shard)] = shard

        try:
            while True:
                limit = self._limit(on_gpus)  # every time, because the cluster can grow
                submit_up_to(limit)
                self.in_flight = len(flying)
                if not flying:
                    heartbeats.forget()
                    return
                if self._answered > heartbeats.read_at:
                    heartbeats.read([shard.index for shard in flying.values()], self._answered)
                    self.trial_steps = heartbeats.steps
                finished = self._finished(list(flying))
                for self.backlog, reference in zip(reversed(range(len(finished))), finished, strict=True):
                    shard = flying.pop(reference)
                    heartbeats.end(shard.index)
                    self.trial_steps = heartbeats.steps
                    yield self._outcome(reference, shard, retries)
                    submit_up_to(limit)  # after each, because a core has work for only one more shard
        finally:
            self.backlog = 0

    def submitter(self, prepared: PreparedSweep, run: str) -> Callable[[Shard], Any]:
        """Return a function that submits a shard as a task and returns the reference to its outcome.

        Args:
            prepared: the sweep.
            run: the name under which the tasks write their heartbeats.
        """
        from sweeps.execution.ray_heartbeat import run_shard

        on_gpus = not self.on_cpu(prepared.config.training.device)
        here = _on(prepared.config, prepared.config.training.device, on_gpus)
        shared = self._ray.put(dataclasses.replace(prepared, config=here, threads=1))
        retries = prepared.config.execution.max_retries
        task = self._ray.remote(num_cpus=1, num_gpus=int(on_gpus), max_retries=retries)(run_shard)
        folder = module_folder(here.task.model)
        return lambda shard: task.remote(folder, shared, shard, run)

    def meter(self, sweep_id: str, name: str) -> Callable[[Counts], None]:
        """Return a function that updates Ray's metrics."""
        from sweeps.execution.ray_metrics import Meter

        return Meter(sweep_id, name)

    def _finished(self, flying: list[Any]) -> list[Any]:
        """Return the finished tasks, or nothing if none finishes soon.

        A wait takes time for every task in flight. Where they are many, it is for several at once.
        """
        several = len(flying) // _WAITED_SHARE
        with self._attached():
            if several < 2:
                ready, _ = self._ray.wait(flying, num_returns=1, timeout=_LOOK_SECONDS)
            else:
                self._ray.wait(flying, num_returns=several, timeout=_SEVERAL_SECONDS)
                ready, _ = self._ray.wait(flying, num_returns=len(flying), timeout=0)
        return list(ready)

    def _limit(self, on_gpus: bool) -> int:
        """Return the number of tasks to keep submitted, and check that the cluster is reachable."""
        now = time.monotonic()
        if now - self._looked > _LOOK_SECONDS:
            self._looked = now
            if self._node and not (answers(self._node) or answers(self._node)):
                raise self._lost(f"this process's node {self._node} does not answer")
            if answers(self._head):  # otherwise the next call to Ray would block
                self._answered = now
                with self._attached():
                    resources = self._ray.cluster_resources()
                self._resources = {name: int(resources.get(name, 0)) for name in ("CPU", "GPU")}
            elif now - self._answered > _LOST_SECONDS:
                raise self._lost(f"the head {self._head} has not answered for {_LOST_SECONDS:.0f} s")
        return max(2, IN_FLIGHT_PER_CORE * self._resources.get("GPU" if on_gpus else "CPU", 0))

    @contextlib.contextmanager
    def _attached(self) -> Iterator[None]:
        """Convert the errors that Ray raises when this process loses its node into ClusterLost."""
        try:
            yield
        except (self._ray.exceptions.RaySystemError, OSError) as error:
            raise self._lost(_first_line(error)) from error

    def _lost(self, reason: str) -> ClusterLost:
        self._ray = None  # shutting down would wait a minute for the lost cluster
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
        except OSError as error:  # not from the task, whose errors arrive as RayTaskError
            raise self._lost(_first_line(error)) from error
        return outcome

    def stop(self) -> None:
        """Leave the cluster, or stop the local Ray."""
        if self._ray is not None:
            self._ray.shutdown()
            self._ray, self._resources, self._looked = None, {}, 0.0


class _NoFolders(list[str]):
    """The folders that Ray adds to the start of its workers' import path: none.

    By default it adds the working directory, where a file such as ``torch.py`` would replace the package.
    """

    def extend(self, folders: Iterable[str]) -> None:
        """Ignore what Ray adds when it connects."""


def _on(config: SweepConfig, device: str, on_gpus: bool) -> SweepConfig:
    """Return the config with the device as seen by a task, to which Ray shows only its own GPU, if any."""
    if device == "auto" and on_gpus:
        return config  # the task uses the GPU if torch can
    inside = "cuda:0" if device.startswith("cuda") else "cpu"
    return config.model_copy(update={"training": config.training.model_copy(update={"device": inside})})


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _quiet_environment() -> None:
    """Turn off usage reports and warnings in Ray's environment variables, unless the user has set them."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # unset, Ray prints a warning at every start


def loopback_environment() -> None:
    """Set the environment variables that make a local Ray listen on loopback only and require a token.

    Raises:
        ExecutorError: Ray has already been imported without a token.
    """
    if "ray" in sys.modules and "RAY_AUTH_MODE" not in os.environ:
        raise ExecutorError(
            "Ray was imported before a local Ray could be configured; set RAY_AUTH_MODE=token, "
            "or join a running cluster by its address"
        )
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    if "RAY_AUTH_MODE" not in os.environ:
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))


@contextlib.contextmanager
def _own_signals() -> Iterator[None]:
    """Restore this process's SIGTERM handler, which Ray replaces with one that exits without cleanup."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def _stderr_to_null() -> Iterator[None]:
    """Discard what Ray's start-up writes to file descriptor 2; failures still raise exceptions."""
    saved, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(null)
