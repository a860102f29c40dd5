"""Checks whether this machine can run sweeps: versions, devices, Ray, MLflow, the store and the clock, with remedies.

Every check is a function that returns what it found, or raises :class:`Warned` or :class:`Failed` with a remedy. It has
a time limit. A check that raises any other exception has failed, with the exception as its finding.
"""

from __future__ import annotations

import os
import platform
import shutil
import stat
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Literal

from sweeps.errors import SweepHeld, SweepsError
from sweeps.store.backends import local_lease
from sweeps.store.store import Store
from sweeps.version import CONFLICT_REMEDY, conflict

Status = Literal["ok", "warning", "failed"]

_SECONDS, _RAY_SECONDS = 20.0, 120.0  # a local Ray starts in seconds, or much later on a busy machine
_PACKAGES = ("numpy", "numba", "torch", "pyarrow", "ray", "mlflow")
_LITTLE_ROOM, _NO_ROOM = 5_000_000_000, 200_000_000  # bytes
_SKEW, _WRONG = 5.0, 300.0  # seconds; other hosts compare tokens and log times with their own clocks


class Warned(Exception):
    """A check found something that works but should be changed. Arguments: the finding and a remedy."""


class Failed(Exception):
    """A check found something that does not work. Arguments: the finding and a remedy."""


@dataclass(frozen=True)
class Check:
    """The result of a check."""

    name: str
    status: Status
    found: str
    remedy: str = ""


@dataclass(frozen=True)
class ServiceSettings:
    """The settings to check.

    Args:
        store: the store, which need not exist yet.
        address: the address of a Ray cluster; None starts a local Ray.
        tracking_uri: the MLflow tracking URI; None means the store's own database.
        tracking_database: the URI of the tracking server's database, or $NAME of a variable that holds it.
    """

    store: Store
    address: str | None = None
    tracking_uri: str | None = field(default=None, repr=False)
    tracking_database: str | None = field(default=None, repr=False)


def examine(settings: ServiceSettings) -> Iterator[Check]:
    """Run all checks, and yield each result when it is available."""
    for name, (check, seconds) in _CHECKS.items():
        yield run_check(name, partial(check, settings), seconds)


def run_check(name: str, check: Callable[[], str], seconds: float) -> Check:
    """Run one check, and report it as failed if it takes more than ``seconds``."""
    found: list[Check] = []
    thread = threading.Thread(target=lambda: found.append(_tried(name, check)), name=name, daemon=True)
    thread.start()
    thread.join(seconds)
    if not found:
        return Check(
            name, "failed", f"no answer within {seconds:g} s", "find what hangs: the network, a disk or a lock"
        )
    return found[0]


def _tried(name: str, check: Callable[[], str]) -> Check:
    from sweeps.text.redact import one_line

    try:
        return Check(name, "ok", check())
    except Warned as warned:
        return Check(name, "warning", *warned.args)
    except Failed as failed:
        return Check(name, "failed", *failed.args)
    except SweepsError as error:
        return Check(name, "failed", one_line(error))
    except Exception as error:  # noqa: BLE001 - a check that crashes is a failed check
        return Check(name, "failed", f"{type(error).__name__}: {one_line(error)}")


def _python(settings: ServiceSettings) -> str:
    return f"{platform.python_version()} on {platform.system()} {platform.release()}, {platform.machine()}"


def _versions(settings: ServiceSettings) -> str:
    """Compare the installed packages with the version ranges that this package requires."""
    from packaging.requirements import Requirement

    if (problem := conflict()) is not None:
        raise Failed(problem, CONFLICT_REMEDY)
    wrong = []
    for requirement in map(Requirement, requires("sgd-sweeps") or ()):
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            installed = version(requirement.name)
        except PackageNotFoundError:
            wrong.append(f"{requirement.name} is not installed")
            continue
        if not requirement.specifier.contains(installed, prereleases=True):
            wrong.append(f"{requirement.name} {installed} is not {requirement.specifier}")
    if wrong:
        raise Failed(
            "; ".join(wrong), "install the pinned versions: pip install --constraint constraints.txt sgd-sweeps"
        )
    return ", ".join(f"{package} {version(package)}" for package in ("sgd-sweeps", *_PACKAGES))


def _cpu(settings: ServiceSettings) -> str:
    from llvmlite.binding import get_host_cpu_features, get_host_cpu_name

    cores = len(os.sched_getaffinity(0))
    found = f"{cores} core{'s' * (cores != 1)}, {get_host_cpu_name()}"
    features = get_host_cpu_features()
    if platform.machine() == "x86_64" and not (features.get("avx2") and features.get("fma")):
        raise Warned(
            f"{found}, without AVX2 or FMA", "results are correct, but slow and not equal to torch bit for bit"
        )
    if platform.machine() != "x86_64":
        raise Warned(found, "equality with torch was tested on x86-64 only; check trials with sweeps replay")
    return f"{found}, AVX2{', AVX-512' if features.get('avx512f') else ''}"


def _gpu(settings: ServiceSettings) -> str:
    from sgdcore.devices import gpus

    if count := gpus():
        return f"{count} CUDA GPU{'s' * (count != 1)} that torch can use"
    if Path("/dev/nvidiactl").exists():
        raise Warned("torch cannot use the GPU", "install a CUDA build of torch that supports the driver")
    return "none; sweeps run on CPUs"


def _kernels(settings: ServiceSettings) -> str:
    """Look for a folder that keeps compiled kernels."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what follows says the same
        from sgdcore.compile_cache import CACHED, FOLDER
    remedy = "set NUMBA_CACHE_DIR to a folder that lasts and can be written"
    if not CACHED:
        raise Warned("no folder can keep compiled kernels: each process compiles them, for seconds each", remedy)
    if FOLDER:
        raise Warned(f"compiled kernels are kept in {FOLDER}, which may be cleared", remedy)
    return "compiled kernels are kept on disk"


def _ray(settings: ServiceSettings) -> str:
    from sweeps.errors import ExecutorError
    from sweeps.execution.ray import RayExecutor

    executor = RayExecutor(settings.address)
    try:
        executor.start()
        return executor.description
    except ExecutorError as error:
        if settings.address:
            remedy = "check that the head is running, and that RAY_AUTH_MODE and RAY_AUTH_TOKEN_PATH match the cluster"
        else:
            remedy = "run without Ray: sweeps run --executor inline"
        raise Failed(str(error), remedy) from error
    finally:
        executor.stop()


def _tracking(settings: ServiceSettings) -> str:
    """Connect to MLflow as a sweep does before it starts, without creating the store's own database."""
    from sweeps.pipeline.factories import tracker_for
    from sweeps.tracking.mlflow.health import standing

    tracker = tracker_for(settings.store, settings.tracking_uri, None, settings.tracking_database)
    if tracker.missing_file is not None:
        whose = "the store's own MLflow database" if settings.tracking_uri is None else tracker.uri
        return f"{whose}, which the first sweep creates"
    try:
        writer, why = standing(tracker)
    except SweepsError as error:
        remedy = "check the server, MLFLOW_TRACKING_URI, MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
        raise Failed(str(error), remedy) from error
    found = f"{tracker.uri}: experiments can be read; writer {writer} ({why})"
    if writer == "client" and not settings.tracking_uri:
        raise Warned(found, "this writer logs trials one by one and is much slower; see the reason")
    return found


def _clock(settings: ServiceSettings) -> str:
    """Compare this machine's clock with that of the tracking server or its database."""
    from sweeps.pipeline.factories import database_uri
    from sweeps.tracking.mlflow.health import skew

    uri = settings.tracking_uri
    if uri is None:
        return "no other clock to compare with: MLflow is in the store"
    database = database_uri(settings.tracking_database) if settings.tracking_database else None
    seconds = skew(uri, database)
    if seconds is None:
        return "no other clock to compare with: MLflow reports no time"
    found = f"{abs(seconds):.1f} s {'behind' if seconds > 0 else 'ahead of'} MLflow's"
    if abs(seconds) > _WRONG:
        raise Failed(found, "sync the clocks with NTP: runs and logs are out of order, and tokens expire at once")
    if abs(seconds) > _SKEW:
        raise Warned(found, "sync the clocks with NTP: runs from different machines are out of order")
    return found


def _store(settings: ServiceSettings) -> str:
    """Check that the store can be written and has enough free space."""
    if settings.store.is_shared:
        try:
            settings.store.check_writable()
        except SweepsError as error:
            raise Failed(str(error), "check the AWS_* variables, the bucket's policy and the server") from error
        return f"{settings.store.where}: can be written"
    root = settings.store.root
    folder = next(path for path in (root, *root.parents) if path.exists())
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".probe-") as file:
            file.write(b"probe")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        remedy = f"choose another folder with --store or SWEEPS_STORE, or let this user write to {folder}"
        raise Failed(f"{root}: cannot be written: {error.strerror}", remedy) from error
    free = shutil.disk_usage(folder).free
    found = f"{root}{'' if folder == root else ' (not created yet)'}: {free / 1e9:,.1f} GB free"
    if free < _LITTLE_ROOM:
        raise (Failed if free < _NO_ROOM else Warned)(found, "free some space: a trial of 64 points takes about 1 kB")
    return found


def _locks(settings: ServiceSettings) -> str:
    """Check that a lock on the store's file system excludes a second process."""
    if settings.store.is_shared:
        return f"{settings.store.where}: conditional writes work as locks (see store)"
    root = settings.store.root
    folder = next(path for path in (root, *root.parents) if path.exists())
    path = folder / f".probe-lock-{os.getpid()}"
    remedy = "the store needs a file system with flock (NFS: not nolock or local_lock; Lustre: mount option flock)"
    try:
        with local_lease.held(path, "the probe"):
            try:
                with local_lease.held(path, "the probe"):
                    raise Failed(f"{folder}: two processes can hold the same lock", remedy)
            except SweepHeld:
                return f"{folder}: locks exclude other processes"
    except SweepsError as error:
        raise Failed(str(error), remedy) from error
    finally:
        path.unlink(missing_ok=True)


def _permissions(settings: ServiceSettings) -> str:
    """Check that this user can write to existing sweeps, and that the store is not world-writable."""
    store = settings.store
    if store.is_shared:
        return f"{store.where}: the bucket's policy decides who can write"
    if not store.root.exists():
        return "the store does not exist yet"
    foreign = [path for path in (store.root, store.database, *(f.folder for f in store.sweeps())) if path.exists()]
    closed = [path for path in foreign if not os.access(path, os.W_OK)]
    if closed:
        more = f" and {len(closed) - 1:,} more" if len(closed) > 1 else ""
        remedy = f"run chown --recursive {os.geteuid()}:{os.getegid()} {store.root}, or run sweeps as the owner"
        raise Failed(f"{closed[0]}{more}: cannot be written by this user", remedy)
    mode = store.root.stat().st_mode
    if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
        raise Warned(f"{store.root}: can be written by every user", f"run chmod o-w {store.root}")
    return f"{store.root}: can be written by this user, but not by every user"


def _uvloop(settings: ServiceSettings) -> str:
    try:
        return version("uvloop")
    except PackageNotFoundError:
        remedy = "pip install uvloop on MLflow's server: without it each call to several workers waits 44 ms"
        raise Warned("not installed", remedy) from None


def _postgres(settings: ServiceSettings) -> str:
    wanted = any((uri or "").startswith("postgresql") for uri in (settings.tracking_uri, settings.tracking_database))
    try:
        return f"psycopg {version('psycopg')}"
    except PackageNotFoundError:
        if wanted or settings.tracking_database:
            raise Failed("psycopg is not installed", "pip install 'sgd-sweeps[postgres]'") from None
        return "psycopg is not installed, and not needed"


_CHECKS: dict[str, tuple[Callable[[ServiceSettings], str], float]] = {
    "python": (_python, _SECONDS),
    "versions": (_versions, _SECONDS),
    "cpu": (_cpu, _SECONDS),
    "gpu": (_gpu, _SECONDS),
    "store": (_store, _SECONDS),
    "locks": (_locks, _SECONDS),
    "permissions": (_permissions, _SECONDS),
    "compiled kernels": (_kernels, 3 * _SECONDS),
    "ray": (_ray, _RAY_SECONDS),
    "tracking": (_tracking, 3 * _SECONDS),
    "clock": (_clock, _SECONDS),
    "uvloop": (_uvloop, _SECONDS),
    "postgresql driver": (_postgres, _SECONDS),
}
