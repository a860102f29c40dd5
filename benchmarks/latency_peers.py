"""Optuna and Ray Tune on 20 settings: python -m benchmarks.latency_peers optuna|tune FOLDER"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

from benchmarks.sweep import trajectory

AXES = {"lr": [0.01, 0.02, 0.03, 0.04, 0.05], "momentum": [0.1, 0.5, 0.8, 0.9]}
_STEPS = list(range(0, 101, 2))  # the recorded steps


def main(peer: str, where: str) -> None:
    """Train all settings and log them to a new database in the folder."""
    folder = Path(where)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    trials = {"optuna": _optuna, "tune": _tune}[peer](folder)
    assert trials == len(AXES["lr"]) * len(AXES["momentum"])


def _optuna(folder: Path) -> int:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)

    def objective(trial: optuna.Trial) -> float:
        setting = {name: trial.suggest_categorical(name, values) for name, values in AXES.items()}
        for step, point in zip(_STEPS, trajectory(setting, _STEPS), strict=True):
            trial.report(point["loss"], step)
        return point["loss"]

    sampler = optuna.samplers.GridSampler(AXES)
    study = optuna.create_study(storage=f"sqlite:///{folder}/optuna.db", sampler=sampler)
    study.optimize(objective)
    return len(study.trials)


def _tune(folder: Path) -> int:
    import ray
    from ray import tune
    from ray.air.integrations.mlflow import MLflowLoggerCallback

    def trainable(config: dict[str, Any]) -> None:
        for point in trajectory(config, _STEPS):
            tune.report(point)

    ray.init(include_dashboard=False, log_to_driver=False)
    callback = MLflowLoggerCallback(tracking_uri=f"sqlite:///{folder}/mlflow.db", experiment_name="twenty")
    found = tune.Tuner(
        tune.with_resources(trainable, {"cpu": 1}),
        param_space={name: tune.grid_search(values) for name, values in AXES.items()},
        tune_config=tune.TuneConfig(reuse_actors=True),
        run_config=tune.RunConfig(storage_path=str(folder), callbacks=[callback], verbose=0),
    ).fit()
    ray.shutdown()
    return len(found)


if __name__ == "__main__":
    main(*sys.argv[1:])
