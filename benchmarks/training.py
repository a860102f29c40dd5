"""Cross-validated settings a second, whole commands side by side: python -m benchmarks.training

Two jobs on scikit-learn's diabetes, 5 folds, 20 epochs, standardised on each fold's training part:

plain: constant lr, batches of one sample, as scikit-learn's SGDRegressor trains. ``sweeps run`` beside
GridSearchCV(Pipeline(StandardScaler, SGDRegressor)) with one process per core.

scheduled: warm-up and cosine, batches of 64, momentum, clipping by norm, no decay of the bias. ``sweeps run`` beside
Optuna's GridSampler whose objective is a plain torch loop over the folds.

Ours is the command from its start to its end: plan, training, the table, MLflow (top:20) and the report, in an empty
store. The peers' processes are timed from their start as well, with as many settings as ``--peer-settings`` says.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from sweeps.config import strict_yaml

FOLDS, EPOCHS = 5, 20
_WARM_UP, _BATCH = 3, 64


def main() -> int:
    """Time both jobs and print settings a second and the ratios."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--settings", type=int, default=1_000, help="of ours")
    parser.add_argument("--peer-settings", type=int, default=20)
    parser.add_argument("--peer", choices=["plain", "scheduled"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peer:
        (_scikit_learn if options.peer == "plain" else _optuna)(options.peer_settings)
        return 0
    table = Table(title=f"5 folds, {EPOCHS} epochs; load before {os.getloadavg()[0]:.1f}", box=None)
    for name in ("", "settings", "seconds", "settings/s", "ratio"):
        table.add_column(name, justify="right" if name else "left")
    peers = {"plain": "GridSearchCV, SGDRegressor", "scheduled": "Optuna, torch loop"}
    for job, peer in peers.items():
        with tempfile.TemporaryDirectory(prefix="benchmark-training-") as folder:
            file = Path(folder) / "sweep.yaml"
            file.write_text(strict_yaml.write(_sweep_file(job, options.settings)))
            ours = _timed(Path(sys.executable).parent / "sweeps", "run", file, "--store", Path(folder) / "store")
        more = "--peer", job, "--peer-settings", str(options.peer_settings)
        theirs = _timed(sys.executable, "-m", "benchmarks.training", *more)
        rate, other = options.settings / ours, options.peer_settings / theirs
        table.add_row(
            f"{job}: sweeps run", f"{options.settings:,}", f"{ours:.1f}", f"{rate:,.1f}", f"{rate / other:,.0f}"
        )
        table.add_row(f"{job}: {peer}", f"{options.peer_settings:,}", f"{theirs:.1f}", f"{other:,.2f}", "1")
    Console(width=100).print(table)
    return 0


def _timed(*command: object) -> float:
    began = time.perf_counter()
    subprocess.run([str(word) for word in command], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def _sweep_file(job: str, settings: int) -> dict[str, Any]:
    training: dict[str, Any] = {"epochs": EPOCHS, "order": "shuffled", "batch_size": 1}
    parameters: dict[str, Any] = {"lr": {"min": 1e-5, "max": 1e-3, "count": settings, "scale": "log"}}
    if job == "scheduled":
        training |= {
            "batch_size": _BATCH,
            "groups": {"bias": ["bias"]},
            "schedule": [{"kind": "linear", "start_factor": 0.1, "total_iters": _WARM_UP}, {"kind": "cosine"}],
        }
        parameters["lr"] |= {"max": 0.1}
        parameters |= {
            "momentum": {"value": 0.9},
            "weight_decay": {"value": 0.01},
            "weight_decay.bias": {"value": 0},
            "clip_grad_norm": {"value": 1.0},
        }
    return {
        "name": job,
        "task": {"dataset": {"kind": "diabetes", "standardize": "features", "validation": {"folds": FOLDS}}},
        "training": training,
        "parameters": parameters,
        "tracking": {"trials": "top:20"},
    }


def _scikit_learn(settings: int) -> None:
    import warnings

    import numpy as np
    from sklearn.datasets import load_diabetes
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import SGDRegressor
    from sklearn.model_selection import GridSearchCV, KFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    warnings.simplefilter("ignore", ConvergenceWarning)
    x, y = load_diabetes(return_X_y=True, scaled=False)
    model = SGDRegressor(penalty=None, learning_rate="constant", max_iter=EPOCHS, tol=None, random_state=0)
    search = GridSearchCV(
        make_pipeline(StandardScaler(), model),
        {"sgdregressor__eta0": np.geomspace(1e-5, 1e-3, settings)},
        scoring="neg_mean_squared_error",
        cv=KFold(FOLDS, shuffle=True, random_state=0),
        n_jobs=len(os.sched_getaffinity(0)),
        refit=False,
    )
    search.fit(x, y)


def _optuna(settings: int) -> None:
    import numpy as np
    import optuna
    import torch
    from sklearn.datasets import load_diabetes
    from sklearn.model_selection import KFold
    from sklearn.preprocessing import StandardScaler
    from torch.utils.data import DataLoader, TensorDataset

    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    x, y = load_diabetes(return_X_y=True, scaled=False)
    folds = []
    for train, held_out in KFold(FOLDS, shuffle=True, random_state=0).split(x):
        scaled = torch.tensor(StandardScaler().fit(x[train]).transform(x), dtype=torch.float32)
        goals = torch.tensor(y[:, None], dtype=torch.float32)
        folds.append((TensorDataset(scaled[train], goals[train]), scaled[held_out], goals[held_out]))

    def objective(trial: optuna.Trial) -> float:
        lr = trial.suggest_float("lr", 1e-5, 0.1)
        return float(np.mean([_fold(data, inputs, goals, lr) for data, inputs, goals in folds]))

    def _fold(data: TensorDataset, inputs: torch.Tensor, goals: torch.Tensor, lr: float) -> float:
        torch.manual_seed(0)
        model = torch.nn.Linear(inputs.shape[1], 1)
        groups = [{"params": [model.weight]}, {"params": [model.bias], "weight_decay": 0.0}]
        optimizer = torch.optim.SGD(groups, lr=lr, momentum=0.9, weight_decay=0.01)
        warm_up = torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=0.1, total_iters=_WARM_UP)
        cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=EPOCHS - _WARM_UP)
        scheduler = torch.optim.lr_scheduler.SequentialLR(optimizer, [warm_up, cosine], milestones=[_WARM_UP])
        loader = DataLoader(data, _BATCH, shuffle=True, generator=torch.Generator().manual_seed(0))
        for _ in range(EPOCHS):
            for features, targets in loader:
                optimizer.zero_grad()
                torch.nn.functional.mse_loss(model(features), targets).backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
            scheduler.step()
        with torch.no_grad():
            return torch.nn.functional.mse_loss(model(inputs), goals).item()

    values = np.geomspace(1e-5, 0.1, settings).tolist()
    study = optuna.create_study(sampler=optuna.samplers.GridSampler({"lr": values}))
    study.optimize(objective)


if __name__ == "__main__":
    sys.exit(main())
