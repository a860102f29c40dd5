"""Everything about a CUDA GPU in one command: its tests, the kernels beside their peers, and a sweep with Ray on it.

It writes gpu.json and gpu.md. Exit code 1: a test failed, a contender's parameters differ, or the sweep did not run on
the GPU.

- tests: those marked ``cuda``.
- line: benchmarks.engine's workload. sgdcore's Triton kernel, batched torch, a jitted jax scan where jax is installed,
  and torch.optim's loop, on the GPU; their parameters are compared with those of sgdcore on the CPU.
- networks: benchmarks.networks' workload. sgdcore's torch kernel, eager and compiled, and torch.optim's loop.
- limits: the Triton kernel's floating-point instructions beside the rate of independent multiply-adds, and the memory
  traffic of batched torch beside that of a copy. Both rates are measured in the same run.
- sweep: ``sweeps run`` with Ray and ``device: cuda``, 1,000,000 trials, from a cold start to the report.

``--dry-run`` needs no GPU and launches nothing on one: the tests are listed, the Triton kernels are compiled for a GPU
that need not be there, and everything else runs on the CPU in a small size. It measures nothing; its figures are empty.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import torch

import sgdcore
from benchmarks import networks
from benchmarks.contenders import BenchmarkError, Contender, Workload, apply_rule, batched_torch, torch_optim
from benchmarks.engine import TOLERANCE, largest_deviation
from sgdcore.tasks.datasets import line
from sweeps.config import strict_yaml
from sweeps.store.store import Store

ROOT = Path(__file__).parents[1]
CAPABILITY = 90  # of the GPU that a dry run compiles for
IN_PLACE_BYTES = 4 * 41  # read and written per trial-step by batched torch in place, if nothing is cached
REPEATS = 3
TEST_SECONDS, SWEEP_SECONDS = 240, 120  # the longest that they may take


@dataclass(frozen=True)
class Sizes:
    """The sizes of the parts."""

    trials: int
    steps: int
    networks: int
    epochs: int
    rates: int  # of the sweep, with 100 momenta each


FULL, DRY = Sizes(1 << 20, 5_000, 4096, 6, 10_000), Sizes(256, 10, 8, 1, 10)


def main() -> int:
    """Run all parts, write both files and print the table; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--dry-run", action="store_true", help="check everything but the launches; needs no GPU")
    parser.add_argument("--out", type=Path, default=Path("build/gpu"), help="folder for gpu.json and gpu.md")
    options = parser.parse_args()
    dry = options.dry_run
    if not dry and not torch.cuda.is_available():
        parser.error("torch finds no CUDA GPU; without one, use --dry-run")
    began = time.perf_counter()
    try:
        sizes = DRY if dry else FULL
        document: dict[str, Any] = {"machine": _machine(dry), "dry_run": dry, "tests": cuda_tests(dry)}
        document |= {"line": on_line(sizes, dry), "networks": on_networks(sizes, dry)}
        document["limits"] = limits(document["line"], dry)
        document["sweep"] = sweep(sizes, dry)
    except BenchmarkError as error:
        print(f"benchmarks.gpu: {error}", file=sys.stderr)
        return error.code
    document["seconds"] = round(time.perf_counter() - began, 1)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "gpu.json").write_text(json.dumps(document, indent=2) + "\n")
    text = markdown(document)
    (options.out / "gpu.md").write_text(text)
    print(text)
    return 0


def _machine(dry: bool) -> dict[str, str]:
    packages = ("torch", "triton", "ray", "jax")
    versions = {name: version(name) for name in packages if find_spec(name)}
    gpu = "none, dry run" if dry else torch.cuda.get_device_name()
    return {"gpu": gpu, "cuda": str(torch.version.cuda), "python": platform.python_version(), **versions}


def cuda_tests(dry: bool) -> dict[str, Any]:
    """Run the tests marked ``cuda``, or list them."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "results.xml"
        command = [sys.executable, "-m", "pytest", "tests/sgdcore", "-q", "-m", "cuda", "-p", "no:cacheprovider"]
        command += ["--collect-only"] if dry else [f"--junitxml={log}"]
        done = _command(command, TEST_SECONDS, ROOT)
        if dry:
            found = re.search(r"^(\d+)/\d+ tests collected", done, re.MULTILINE)
            if found is None:
                raise BenchmarkError("no test is marked cuda")
            return {"tests": int(found[1]), "passed": None}
        [suite] = ElementTree.parse(log).iter("testsuite")
        return {
            "tests": int(suite.get("tests", 0)),
            "passed": int(suite.get("tests", 0)) - int(suite.get("skipped", 0)),
        }


def on_line(sizes: Sizes, dry: bool) -> list[dict[str, Any]]:
    """Measure the linear contenders."""
    work, task, device = Workload.of(sizes.trials, sizes.steps), sgdcore.Task(line()), "cpu" if dry else "cuda"
    rows = sgdcore.Hyperparams(work.lr, work.momentum, work.weight_decay, work.dampening, work.nesterov)
    train = partial(sgdcore.train, task, rows, epochs=work.steps // 5, start=[0.0, 0.0])
    expected = train(record=sgdcore.Recording(points=0), device="cpu").params.T
    contenders = [
        Contender(
            f"sgdcore, Triton kernel, {points} points",
            work.trials * work.steps,
            partial(train, record=sgdcore.Recording(points=points), device=device),
            lambda trajectories: trajectories.params.T,
        )
        for points in (0, 64)
    ]
    peers = [*batched_torch(work, device), *_jax_scan(work, dry), torch_optim(work, device)]
    return _measured([*contenders, *peers], partial(largest_deviation, expected=expected), TOLERANCE, dry)


def _jax_scan(work: Workload, dry: bool) -> Iterator[Contender]:
    """Yield the jitted scan, if jax is installed and has the device."""
    if find_spec("jax") is None:
        return
    import jax

    try:
        device = jax.devices("cpu" if dry else "gpu")[0]
    except RuntimeError:
        return  # jax without CUDA
    columns = tuple(jax.device_put(column, device) for column in work.columns())
    samples = tuple(jax.device_put(np.tile(a, work.steps // 5), device) for a in (work.x, work.y))

    def scan(columns: Any, samples: Any) -> Any:
        def step(state: Any, sample: Any) -> Any:
            (w, b, buffer_w, buffer_b), (x, y) = state, sample
            slope = 2 * (w * x + b - y)
            w, buffer_w = apply_rule(w, slope * x, buffer_w, columns, jax.numpy.where)
            b, buffer_b = apply_rule(b, slope, buffer_b, columns, jax.numpy.where)
            return (w, b, buffer_w, buffer_b), None

        zero = jax.numpy.zeros_like(columns[0])
        first, _ = step((zero, zero, None, None), tuple(s[0] for s in samples))
        return jax.numpy.stack(jax.lax.scan(step, first, tuple(s[1:] for s in samples), unroll=5)[0][:2])

    compiled = jax.jit(scan)
    yield Contender(
        "jax, jit scan", work.trials * work.steps, lambda: jax.block_until_ready(compiled(columns, samples)), np.asarray
    )


def on_networks(sizes: Sizes, dry: bool) -> list[dict[str, Any]]:
    """Measure the perceptrons 8-32-1."""
    work, device = networks.Networks.of(sizes.networks, sizes.epochs), "cpu" if dry else "cuda"
    train = partial(
        sgdcore.train, work.task, work.hyperparams, epochs=work.epochs, batch_size=networks.BATCH, start=work.start,
        record=sgdcore.Recording(points=0), kernel="torch",
    )  # fmt: skip
    expected = train(device="cpu").params
    contenders = [
        Contender(
            f"sgdcore, torch kernel{', compiled' * compiled}",
            work.trial_steps,
            partial(train, device=device, compile=compiled),
            lambda trajectories: trajectories.params,
        )
        for compiled in ((False,) if dry else (False, True))
    ]
    loop = networks.torch_optim(work, device=device)
    deviation = partial(networks.deviation, expected=expected)
    return _measured([*contenders, replace(loop, result=np.array)], deviation, networks.TOLERANCE, dry)


def _measured(
    contenders: list[Contender], deviation: Callable[[Any], float], tolerance: float, dry: bool
) -> list[dict[str, Any]]:
    """Return each contender's deviation from the CPU, checked, and its rate, which a dry run does not measure."""
    rows: list[dict[str, Any]] = []
    for contender in contenders:
        found = deviation(contender.result(contender.run()))
        if not found <= tolerance:
            raise BenchmarkError(f"{contender.name} is {found:.3g} off the CPU's parameters")
        rows.append({"name": contender.name, "deviation": None if dry else found, "rate": None})
    if not dry:
        rates: list[list[float]] = [[] for _ in contenders]
        for _ in range(REPEATS):
            for contender, of_one in zip(contenders, rates, strict=True):
                torch.cuda.synchronize()
                begin = time.perf_counter()
                contender.run()
                torch.cuda.synchronize()
                of_one.append(contender.trial_steps / (time.perf_counter() - begin))
        for row, of_one in zip(rows, rates, strict=True):
            row["rate"] = statistics.median(of_one)
    return rows


def limits(rows: list[dict[str, Any]], dry: bool) -> dict[str, Any]:
    """Return the GPU's measured limits, and the contenders' shares of them."""
    from benchmarks.gpu_limits import compile_fused, copy_rate, issue_rate
    from tests.support.triton_compiled import Compiled

    capability = CAPABILITY
    if not dry:
        major, minor = torch.cuda.get_device_capability()
        capability = 10 * major + minor
    compiled = Compiled.of(capability, "fp32", 1, True, True)
    if compiled.memory["stack"] or compiled.memory["local"]:
        raise BenchmarkError(f"the Triton kernel spills registers: {compiled.memory}")
    instructions = len(compiled.arithmetic) / compiled.per_thread
    found = {"capability": capability, **compiled.memory, "instructions_per_trial_step": instructions}
    if dry:
        compile_fused(capability)
        return found | dict.fromkeys(("issue_rate", "issue_share", "copy_rate", "bandwidth_share"))
    rates = {row["name"]: row["rate"] for row in rows}
    issue, copy = issue_rate(), copy_rate()
    kernel, in_place = (next(rates[name] for name in rates if part in name) for part in ("Triton", "in place"))
    found |= {"issue_rate": issue, "issue_share": kernel * instructions / issue}
    return found | {"copy_rate": copy, "bandwidth_share": in_place * IN_PLACE_BYTES / copy}


def sweep(sizes: Sizes, dry: bool) -> dict[str, Any]:
    """Run a sweep with Ray, and check where its trials were trained."""
    document = {
        "name": "gpu",
        "task": {"dataset": {"kind": "line"}},
        "training": {"epochs": 200, "device": "cpu" if dry else "cuda"},
        "parameters": {
            "lr": {"min": 5e-4, "max": 0.1, "count": sizes.rates, "scale": "log"},
            "momentum": {"min": 0, "max": 0.99, "count": 100},
        },
        "record": {"points": 16},
        "tracking": {"trials": "top:100"},
    }
    with tempfile.TemporaryDirectory() as folder:
        config, store = Path(folder) / "gpu.yaml", Path(folder) / "store"
        config.write_text(strict_yaml.write(document))
        command = [sys.executable, "-m", "sweeps", "run", str(config), "--store", str(store), "--executor", "ray"]
        begin = time.perf_counter()
        _command(command, SWEEP_SECONDS, Path(folder))
        seconds = time.perf_counter() - begin
        [files] = Store(store).sweeps()
        device, trials = files.shards.metadata()["device"], files.stored_trials()
    if trials != 100 * sizes.rates or device != ("cpu" if dry else "cuda:0"):
        raise BenchmarkError(f"the sweep trained {trials:,} trials on {device}")
    return {"trials": trials, "device": device, "seconds": None if dry else round(seconds, 1)}


def _command(command: list[str], seconds: float, folder: Path) -> str:
    """Run a command and return its output."""
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired as error:
        raise BenchmarkError(f"{' '.join(command[1:4])} took longer than {seconds:.0f} s") from error
    if done.returncode:
        raise BenchmarkError(f"{' '.join(command[1:4])} failed:\n{done.stdout[-4000:]}{done.stderr[-4000:]}")
    return done.stdout


def markdown(document: dict[str, Any]) -> str:
    """Return the document as tables; what was not measured is a dash."""
    machine, tests, found, ran = (document[name] for name in ("machine", "tests", "limits", "sweep"))
    lines = [f"# GPU: {machine['gpu']}", ""]
    lines += [", ".join(f"{name} {value}" for name, value in machine.items() if name != "gpu"), ""]
    lines += ["| contender | trial-steps/s | deviation |", "|---|---:|---:|"]
    for part in ("line", "networks"):
        lines += [
            f"| {part}: {row['name']} | {_number(row['rate'], '.3g')} | {_number(row['deviation'], '.1e')} |"
            for row in document[part]
        ]
    lines += ["", "| | |", "|---|---:|", f"| cuda tests passed | {_number(tests['passed'], 'd')} of {tests['tests']} |"]
    lines += [f"| registers, stack, local bytes | {found['registers']}, {found['stack']}, {found['local']} |"]
    lines += [f"| float32 instructions per trial-step | {found['instructions_per_trial_step']:g} |"]
    lines += [f"| multiply-adds/s of the GPU | {_number(found['issue_rate'], '.3g')} |"]
    lines += [f"| share of that, Triton kernel | {_number(found['issue_share'], '.0%')} |"]
    lines += [f"| bytes/s of a copy | {_number(found['copy_rate'], '.3g')} |"]
    lines += [f"| share of that, torch in place | {_number(found['bandwidth_share'], '.0%')} |"]
    lines += [f"| sweep with Ray, {ran['trials']:,} trials on {ran['device']}, s | {_number(ran['seconds'], 'g')} |"]
    return "\n".join([*lines, f"| this run, s | {document['seconds']:g} |"]) + "\n"


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


if __name__ == "__main__":
    sys.exit(main())
