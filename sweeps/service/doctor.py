"""Doctor: whether this machine can run sweeps: versions, devices, Ray, MLflow, the store, the clock; with remedies.

Every check is a function that returns what it found, or raises :class:`Warned` or :class:`Failed` with a remedy. It has
a time limit, and one that raises anything else is a failed check with its reason.
"""

from __future__ import annotations

import os
import platform
import shutil
import stat
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Literal

from sweeps.errors import SweepHeld, SweepsError
from sweeps.store.backends import local_lease
from sweeps.store.store import Store

Status = Literal["ok", "warning", "failed"]

_SECONDS, _RAY_SECONDS = 20.0, 120.0  # a local Ray takes a few seconds, on a busy machine many
_PACKAGES = ("numpy", "numba", "torch", "pyarrow", "ray", "mlflow")
_LITTLE_ROOM, _NO_ROOM = 5_000_000_000, 200_000_000  # bytes
_SKEW, _WRONG = 5.0, 300.0  # seconds: tokens and logs are compared by other clocks


class Warned(Exception):
    """A check has found what works and should not stay so: what, and a remedy."""


class Failed(Exception):
    """A check has found what does not work: what, and a remedy."""


@dataclass(frozen=True)
class Check:
    """What a check has found."""

    name: str
    status: Status
    found: str
    remedy: str = ""


@dataclass(frozen=True)
class ServiceSettings:
    """What is examined.

    Args:
        store: the store, which need not exist yet.
        address: of a Ray cluster; None tries a Ray of its own.
        tracking_uri: where MLflow is; None is the store's own.
        tracking_database: the URI of the database behind a tracking server, or $NAME.
    """

    store: Store
    address: str | None = None
    tracking_uri: str | None = field(default=None, repr=False)
    tracking_database: str | None = field(default=None, repr=False)


def examine(patient: ServiceSettings) -> Iterator[Check]:
    """All checks, one after the other, each as it ends."""
    for name, (check, seconds) in _CHECKS.items():
        yield run_check(name, partial(check, patient), seconds)


def run_check(name: str, check: Callable[[], str], seconds: float) -> Check:
    """One check, which is given up after so many seconds."""
    found: list[Check] = []
    thread = threading.Thread(target=lambda: found.append(_tried(name, check)), name=name, daemon=True)
    thread.start()
    thread.join(seconds)
    if not found:
        return Check(name, "failed", f"no answer within {seconds:g} s", "something hangs: a network, a disk or a lock")
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


def _python(patient: ServiceSettings) -> str:
    return f"{platform.python_version()} on {platform.system()} {platform.release()}, {platform.machine()}"


def _versions(patient: ServiceSettings) -> str:
    """The installed packages, held against the ranges that this package asks for."""
    from packaging.requirements import Requirement

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


def _cpu(patient: ServiceSettings) -> str:
    from llvmlite.binding import get_host_cpu_features, get_host_cpu_name

    cores = len(os.sched_getaffinity(0))
    told = f"{cores} core{'s' * (cores != 1)}, {get_host_cpu_name()}"
    features = get_host_cpu_features()
    if platform.machine() == "x86_64" and not (features.get("avx2") and features.get("fma")):
        raise Warned(f"{told}, without AVX2 or FMA", "results are right, but slow and not bit for bit those of torch")
    if platform.machine() != "x86_64":
        raise Warned(told, "that trials have the bits of torch was measured on x86-64 only; see sweeps replay")
    return f"{told}, AVX2{', AVX-512' if features.get('avx512f') else ''}"


def _gpu(patient: ServiceSettings) -> str:
    from sgdcore.devices import gpus

    if count := gpus():
        return f"{count} CUDA GPU{'s' * (count != 1)} that torch can use"
    if Path("/dev/nvidiactl").exists():
        raise Warned("there is a GPU that torch cannot use", "install a CUDA build of torch that suits the driver")
    return "none; sweeps run on CPUs"


def _ray(patient: ServiceSettings) -> str:
    from sweeps.errors import ExecutorError
    from sweeps.execution.ray import RayExecutor

    executor = RayExecutor(patient.address)
    try:
        executor.start()
        return executor.description
    except ExecutorError as error:
        if patient.address:
            remedy = "is the head up, and are RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH as the cluster's?"
        else:
            remedy = "sweeps run --executor inline does without Ray"
        raise Failed(str(error), remedy) from error
    finally:
        executor.stop()


def _tracking(patient: ServiceSettings) -> str:
    """As a sweep does before it starts; a store's own database is not made for that."""
    from sweeps.pipeline.factories import tracker_for
    from sweeps.tracking.mlflow.health import standing

    if patient.tracking_uri is None and not patient.store.database.exists():
        return "the store's own MLflow, which the first sweep makes"
    tracker = tracker_for(patient.store, patient.tracking_uri, None, patient.tracking_database)
    try:
        writer, why = standing(tracker)
    except SweepsError as error:
        remedy = "is it up, and are MLFLOW_TRACKING_URI, MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD right?"
        raise Failed(str(error), remedy) from error
    told = f"{tracker.uri}: experiments can be read; writer {writer} ({why})"
    if writer == "client" and not patient.tracking_uri:
        raise Warned(told, "trials are written one by one, which is slower by far")
    return told


def _clock(patient: ServiceSettings) -> str:
    """The tracking server's or database's clock beside this machine's."""
    from sweeps.pipeline.factories import database_uri
    from sweeps.tracking.mlflow.health import skew

    uri = patient.tracking_uri
    if uri is None:
        return "no other clock: MLflow is in the store"
    database = database_uri(patient.tracking_database) if patient.tracking_database else None
    seconds = skew(uri, database)
    if seconds is None:
        return "MLflow has no clock of its own"
    told = f"{abs(seconds):.1f} s {'behind' if seconds > 0 else 'ahead of'} MLflow's"
    if abs(seconds) > _WRONG:
        raise Failed(told, "set the clocks by NTP: runs and logs are out of order, and tokens expire at once")
    if abs(seconds) > _SKEW:
        raise Warned(told, "set the clocks by NTP: runs of several machines are out of order")
    return told


def _store(patient: ServiceSettings) -> str:
    """Writable, with room."""
    if patient.store.is_shared:
        try:
            patient.store.check_writable()
        except SweepsError as error:
            raise Failed(str(error), "see to the AWS_* variables, the bucket's policy and the server") from error
        return f"{patient.store.where}: can be written"
    root = patient.store.root
    folder = next(path for path in (root, *root.parents) if path.exists())
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".probe-") as file:
            file.write(b"probe")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        remedy = f"choose another place by --store or SWEEPS_STORE, or let this user write to {folder}"
        raise Failed(f"{root}: cannot be written: {error.strerror}", remedy) from error
    free = shutil.disk_usage(folder).free
    there = f"{root}{'' if folder == root else ', which is not there yet'}: {free / 1e9:,.1f} GB free"
    if free < _LITTLE_ROOM:
        raise (Failed if free < _NO_ROOM else Warned)(there, "make room: a trial of 64 points takes about 1 kB")
    return there


def _locks(patient: ServiceSettings) -> str:
    """Whether the file system keeps two processes apart."""
    if patient.store.is_shared:
        return f"{patient.store.where}: conditional writes keep others out, see above"
    root = patient.store.root
    folder = next(path for path in (root, *root.parents) if path.exists())
    path = folder / f".probe-lock-{os.getpid()}"
    remedy = "the store needs a file system with flock (NFS: not nolock or local_lock; Lustre: mount option flock)"
    try:
        with local_lease.held(path, "the probe"):
            try:
                with local_lease.held(path, "the probe"):
                    raise Failed(f"{folder}: two can hold one lock", remedy)
            except SweepHeld:
                return f"{folder}: a lock keeps others out"
    except SweepsError as error:
        raise Failed(str(error), remedy) from error
    finally:
        path.unlink(missing_ok=True)


def _permissions(patient: ServiceSettings) -> str:
    """Whether this user can go on with what is there, and no stranger can change it."""
    store = patient.store
    if store.is_shared:
        return f"{store.where}: who may write there is the bucket's policy"
    if not store.root.exists():
        return "nothing is there yet"
    foreign = [path for path in (store.root, store.database, *(f.folder for f in store.sweeps())) if path.exists()]
    closed = [path for path in foreign if not os.access(path, os.W_OK)]
    if closed:
        more = f" and {len(closed) - 1:,} more" if len(closed) > 1 else ""
        remedy = f"chown --recursive {os.geteuid()}:{os.getegid()} {store.root}, or run as their owner"
        raise Failed(f"{closed[0]}{more}: this user may not write there", remedy)
    mode = store.root.stat().st_mode
    if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
        raise Warned(f"{store.root}: everybody may write there", f"chmod o-w {store.root}")
    return f"{store.root}: can be written by this user, not by everybody"


def _uvloop(patient: ServiceSettings) -> str:
    try:
        return version("uvloop")
    except PackageNotFoundError:
        remedy = "pip install uvloop where MLflow's server runs: without it each call to several workers waits 44 ms"
        raise Warned("not installed", remedy) from None


def _postgres(patient: ServiceSettings) -> str:
    wanted = any((uri or "").startswith("postgresql") for uri in (patient.tracking_uri, patient.tracking_database))
    try:
        return f"psycopg {version('psycopg')}"
    except PackageNotFoundError:
        if wanted or patient.tracking_database:
            raise Failed("psycopg is not installed", "pip install 'sgd-sweeps[postgres]'") from None
        return "psycopg is not installed, and not asked for"


_CHECKS: dict[str, tuple[Callable[[ServiceSettings], str], float]] = {
    "python": (_python, _SECONDS),
    "versions": (_versions, _SECONDS),
    "cpu": (_cpu, _SECONDS),
    "gpu": (_gpu, _SECONDS),
    "store": (_store, _SECONDS),
    "locks": (_locks, _SECONDS),
    "permissions": (_permissions, _SECONDS),
    "ray": (_ray, _RAY_SECONDS),
    "tracking": (_tracking, 3 * _SECONDS),
    "clock": (_clock, _SECONDS),
    "uvloop": (_uvloop, _SECONDS),
    "postgresql driver": (_postgres, _SECONDS),
}
