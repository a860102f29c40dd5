"""Search methods, whole commands side by side, seeds fixed: python -m benchmarks.search [random hyperband tpe]

random: a million random trials on the line beside a grid of a million: seconds, planning, and peak memory.

hyperband: 100,000 random trials of diabetes with 81 epochs, with hyperband (eta 3) beside training all to the end:
trial-epochs, seconds, and where the best survivor ranks in the full sweep.

tpe: trials of the task of configs/network.yaml by tpe beside as many random ones, for several seeds: the best
validation loss. Beside them Optuna's own TPE with a plain torch loop, for as many trials as fit in ``--peer-seconds``,
and what as many as ours would take at that rate.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from sweeps.config import strict_yaml

_LINE = {
    "task": {"dataset": {"kind": "line"}, "model": {"kind": "linear"}},
    "training": {"epochs": 20},
    "tracking": {"trials": "none", "model": "none"},
}
_DIABETES = {
    "task": {"dataset": {"kind": "diabetes", "standardize": "all", "validation": 0.2}, "model": {"kind": "linear"}},
    "training": {"epochs": 81, "batch_size": 32, "order": "shuffled"},
    "parameters": {
        "lr": {"min": 1e-4, "max": 1, "scale": "log"},
        "momentum": {"min": 0, "max": 0.99},
        "weight_decay": {"min": 1e-6, "max": 1, "scale": "log"},
    },
    "method": "random",
    "tracking": {"trials": "none", "model": "none"},
}
_NETWORK = {
    "task": {
        "dataset": {"kind": "diabetes", "standardize": "all", "validation": 0.2},
        "model": {"kind": "mlp", "hidden": [32], "activation": "relu"},
        "loss": "huber",
    },
    "training": {"epochs": 40, "batch_size": 32, "order": "shuffled"},
    "parameters": {
        "lr": {"min": 1e-3, "max": 3, "scale": "log"},
        "momentum": {"min": 0, "max": 0.99},
        "weight_decay": {"min": 1e-5, "max": 1, "scale": "log"},
        "nesterov": {"values": [False, True]},
    },
    "tracking": {"trials": "none", "model": "none"},
}


def main() -> int:
    """Run the jobs that are named, by default all, and print a table of each."""
    jobs: dict[str, Callable[[argparse.Namespace], Table]] = {"random": _random, "hyperband": _hyperband, "tpe": _tpe}
    parser = argparse.ArgumentParser(prog="python -m benchmarks.search", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("jobs", nargs="*", choices=[[], *jobs], help="by default all")
    parser.add_argument("--random-trials", type=int, default=1_000_000, help="a square number")
    parser.add_argument("--hyperband-trials", type=int, default=100_000)
    parser.add_argument("--tpe-trials", type=int, default=2_000)
    parser.add_argument("--tpe-seeds", type=int, default=10)
    parser.add_argument("--peer-seconds", type=float, default=120)
    options = parser.parse_args()
    for name in options.jobs or jobs:
        Console(width=110).print(jobs[name](options))
    return 0


def _random(options: argparse.Namespace) -> Table:
    count = round(options.random_trials**0.5)
    axes = {"lr": {"min": 1e-3, "max": 0.1, "scale": "log"}, "momentum": {"min": 0, "max": 0.99}}
    grid = _LINE | {"name": "grid", "parameters": {name: axis | {"count": count} for name, axis in axes.items()}}
    drawn = _LINE | {"name": "random", "parameters": axes, "method": "random", "run_cap": count**2}
    table = _table(f"{count**2:,} trials of 100 steps", "seconds", "ratio", "planning, ms", "peak memory, MB")
    first = None
    for document in (grid, drawn):
        best, memory = min(_run(document)[:2] for _ in range(2))
        first = first or best
        table.add_row(
            str(document["name"]), f"{best:.1f}", f"{best / first:.2f}", f"{_planning(document):.0f}", f"{memory:,.0f}"
        )
    return table


def _hyperband(options: argparse.Namespace) -> Table:
    trials = options.hyperband_trials
    table = _table(f"{trials:,} random trials of diabetes, 81 epochs", "trial-epochs", "less by", "seconds", "less by")
    whole = _DIABETES | {"name": "all", "run_cap": trials}
    pruned = whole | {"name": "hyperband", "early_terminate": {"type": "hyperband"}}
    with tempfile.TemporaryDirectory(prefix="benchmark-search-") as folder:
        seconds, _ = _run(whole, Path(folder) / "all")
        fewer, _ = _run(pruned, Path(folder) / "hyperband")
        everything, survivors = (_trials(Path(folder) / name) for name in ("all", "hyperband"))
    epochs = survivors["stopped_epoch"].fillna(81).sum()
    table.add_row("all", f"{trials * 81:,}", "", f"{seconds:.1f}", "")
    ratios = f"{trials * 81 / epochs:.1f}", f"{seconds / fewer:.1f}"
    table.add_row("hyperband", f"{epochs:,.0f}", ratios[0], f"{fewer:.1f}", ratios[1])
    complete = survivors[survivors["stopped_epoch"].isna() & survivors["first_nonfinite_step"].isna()]
    best = complete.loc[complete["final_validation_loss"].idxmin()]
    rank = int((everything["final_validation_loss"] < best["final_validation_loss"]).sum()) + 1
    table.caption = f"the best survivor is number {rank:,} of all {trials:,} trials"
    return table


def _tpe(options: argparse.Namespace) -> Table:
    cap, wins, times = options.tpe_trials, 0, []
    table = _table(f"{cap:,} trials of a network, best validation loss", "tpe", "random", "tpe, seconds")
    for seed in range(options.tpe_seeds):
        found = {}
        for method in ("tpe", "random"):
            document = _NETWORK | {"name": method, "method": method, "run_cap": cap, "search_seed": seed}
            with tempfile.TemporaryDirectory(prefix="benchmark-search-") as folder:
                seconds, _ = _run(document, Path(folder) / "store")
                found[method] = float(_trials(Path(folder) / "store")["final_validation_loss"].min())
            if method == "tpe":
                times.append(seconds)
        wins += found["tpe"] < found["random"]
        table.add_row(f"seed {seed}", f"{found['tpe']:.5f}", f"{found['random']:.5f}", f"{times[-1]:.1f}")
    done, seconds = _optuna(options.peer_seconds)
    whole = seconds / done * cap
    table.caption = (
        f"tpe is better with {wins} of {options.tpe_seeds} seeds; Optuna's TPE with a torch loop did {done:,} trials "
        f"in {seconds:.0f} s, so {cap:,} would take {whole:,.0f} s: {whole / min(times):,.0f} x ours (extrapolated)"
    )
    return table


def _table(title: str, *columns: str) -> Table:
    table = Table(title=f"{title}; load before {os.getloadavg()[0]:.1f}", box=None)
    for name in ("", *columns):
        table.add_column(name, justify="right" if name else "left")
    return table


def _run(document: dict[str, Any], store: Path | None = None) -> tuple[float, float]:
    """Run a sweep in an empty store; return the command's seconds and its peak memory in MB."""
    with tempfile.TemporaryDirectory(prefix="benchmark-search-") as folder:
        file = Path(folder) / "sweep.yaml"
        file.write_text(strict_yaml.write(document))
        command = [str(Path(sys.executable).parent / "sweeps"), "run", str(file), "--executor", "inline"]
        began = time.perf_counter()
        process = subprocess.Popen(
            [*command, "--store", str(store or Path(folder) / "store")],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise subprocess.CalledProcessError(process.returncode, command)
        return time.perf_counter() - began, usage.ru_maxrss / 1024


def _planning(document: dict[str, Any]) -> float:
    """Return the milliseconds that planning takes, the data loaded and the packages imported."""
    from sweeps.config.loader import parse
    from sweeps.planning.planner import make_plan
    from sweeps.planning.task_loader import load_task

    config = parse(document, "sweep.yaml")
    task = load_task(config.task)
    make_plan(config, task)
    began = time.perf_counter()
    make_plan(config, task)
    return (time.perf_counter() - began) * 1000


def _trials(store: Path) -> Any:
    """Return the trials of a store's only sweep as a DataFrame."""
    from sweeps.results.results import load_results
    from sweeps.store.store import Store

    [files] = Store(store).sweeps()
    return load_results(files).trials


def _optuna(seconds: float) -> tuple[int, float]:
    """Run Optuna's TPE with a plain torch loop for so many seconds; return the trials done and the seconds taken."""
    import optuna
    import torch
    from torch.utils.data import DataLoader, TensorDataset

    from sweeps.config.loader import parse
    from sweeps.planning.task_loader import load_task

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    torch.set_num_threads(1)
    data = load_task(parse(_NETWORK | {"name": "peer", "method": "random", "run_cap": 1}, "peer").task).dataset
    assert data.validation is not None
    x, held_out = (torch.tensor(part.inputs, dtype=torch.float32) for part in (data, data.validation))
    y, expected = (torch.tensor(part.targets, dtype=torch.float32)[:, None] for part in (data, data.validation))

    def objective(trial: optuna.Trial) -> float:
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(x.shape[1], 32), torch.nn.ReLU(), torch.nn.Linear(32, 1))
        optimizer = torch.optim.SGD(
            model.parameters(),
            lr=trial.suggest_float("lr", 1e-3, 3, log=True),
            momentum=(momentum := trial.suggest_float("momentum", 0, 0.99)),
            weight_decay=trial.suggest_float("weight_decay", 1e-5, 1, log=True),
            nesterov=trial.suggest_categorical("nesterov", [False, True]) and momentum > 0,
        )
        loader = DataLoader(TensorDataset(x, y), 32, shuffle=True, generator=torch.Generator().manual_seed(0))
        for _ in range(40):
            for features, targets in loader:
                optimizer.zero_grad()
                torch.nn.functional.huber_loss(model(features), targets).backward()
                optimizer.step()
        with torch.no_grad():
            return float(torch.nan_to_num(torch.nn.functional.huber_loss(model(held_out), expected), nan=1e30))

    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=0))
    began = time.perf_counter()
    study.optimize(objective, timeout=seconds)
    return len(study.trials), time.perf_counter() - began


if __name__ == "__main__":
    raise SystemExit(main())
