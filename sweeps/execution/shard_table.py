"""The shard table, which holds a shard's trials as Arrow columns, with the shard file's metadata."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sgdcore import Judgement, Trajectories
from sgdcore.trajectories import NEVER
from sweeps.arrow_columns import floats, lists, steps, texts, validation_losses
from sweeps.config.schema import BATCH_SIZE, FOLD, HYPERPARAMETERS
from sweeps.planning.plan import Trials
from sweeps.planning.prediction import predicted_radius, prediction
from sweeps.planning.prepared import PreparedSweep


def recorded_steps(prepared: PreparedSweep) -> list[int]:
    """Return the steps at which curves are recorded; with several batch sizes, see :meth:`PreparedSweep.at`."""
    steps: list[int] = prepared.recording.steps(0, prepared.plan.steps).tolist()
    return steps


def shard_metadata(prepared: PreparedSweep, kernel: str, device: str) -> dict[str, str]:
    """Return the metadata of a shard file."""
    return {
        "steps": json.dumps(recorded_steps(prepared)),
        "parameters": json.dumps(prepared.plan.parameter_names),
        "kernel": kernel,
        "device": device,
        "prediction": prediction(prepared),
        "loss_scale": repr(prepared.task.loss_scale),
        **({"loss_floor": repr(prepared.task.loss_floor)} if prepared.task.loss_floor else {}),
    }


def option(name: str, values: NDArray[np.float64]) -> pa.Array:
    """Return the column of an axis beyond the hyperparameters; null where clipping is off."""
    return pa.array(values.astype(np.int64)) if name in (FOLD, BATCH_SIZE) else floats(values)


def _clipped_share(trajectories: Trajectories) -> NDArray[np.float64]:
    """Return the (T,) shares of steps whose gradients were clipped; NaN for trials without clipping."""
    taken = np.full(len(trajectories), trajectories.state.step)
    for stopped in (trajectories.first_nonfinite_step, trajectories.stopped_step):
        taken = np.where(stopped == NEVER, taken, stopped)
    share = trajectories.state.clipped_steps / np.maximum(taken, 1)
    return np.where(trajectories.hyperparams.is_clipped, share, np.nan)


def _validation_losses(trajectories: Trajectories) -> dict[str, NDArray[np.float64]]:
    curves = trajectories.curves.validation_loss
    return {} if curves is None else validation_losses(curves, trajectories.final_values(curves))


def _epochs(trajectories: Trajectories) -> dict[str, NDArray[np.float64]]:
    """Return the columns of epochs, as fractions; NaN if there is none."""
    curves = trajectories.curves
    losses = curves.loss if curves.validation_loss is None else curves.validation_loss
    finite = np.where(np.isfinite(losses), losses, np.inf)
    best = np.where(np.isfinite(finite.min(axis=1)), trajectories.steps[np.argmin(finite, axis=1)], np.nan)
    columns = {"best_epoch": best}
    if trajectories.early_stops is not None:
        columns["stopped_epoch"] = np.where(trajectories.stopped_step == NEVER, np.nan, trajectories.stopped_step)
    return {name: steps / trajectories.steps_per_epoch for name, steps in columns.items()}


def shard_table(
    prepared: PreparedSweep,
    trials: Trials,
    trajectories: Trajectories,
    verdicts: Judgement,
    predicted: pa.ChunkedArray | None = None,
) -> pa.Table:
    """Return the table of a shard: one row per trial, with its settings, verdict, final parameters and curves.

    ``predicted`` is the column predicted_radius, if it is known.
    """
    names, prepared = trajectories.parameter_names, prepared.at(trials)
    if predicted is None:
        radius = predicted_radius(prepared, trials)
        predicted = pa.nulls(len(trials), pa.float64()) if radius is None else floats(radius)
    columns: dict[str, pa.Array] = {
        "trial": pa.array(trials.number),
        "trial_id": pa.array(prepared.plan.ids(trials)),
        **{name: pa.array(getattr(trials.hyperparams, name)) for name in HYPERPARAMETERS},
        **{
            name: option(name, values)
            for name, values in prepared.plan.options.effective(trials.hyperparams, trials.options).items()
        },
        "seed": pa.array(trials.seed),
        **{f"init.{name}": pa.array(trajectories.state.start[:, names.index(name)]) for name in prepared.plan.starts},
        "verdict": pa.array(verdicts.verdict),
        "initial_loss": floats(trajectories.loss[:, 0]),
        "final_loss": floats(verdicts.final_loss),
        "best_loss": floats(verdicts.best_loss),
        "best_step": pa.array(verdicts.best_step),
        **{name: floats(values) for name, values in _validation_losses(trajectories).items()},
        **{name: floats(values) for name, values in _epochs(trajectories).items()},
        "first_nonfinite_step": steps(verdicts.first_nonfinite_step),
        "steps_to_tolerance": steps(verdicts.steps_to_tolerance),
        "overshoot_percent": floats(verdicts.overshoot_percent),
        "overshoot_parameter": texts(verdicts.overshoot_parameter, names),
        "peak_value": floats(verdicts.peak_value),
        "peak_step": steps(verdicts.peak_step),
        **({"clipped_share": floats(_clipped_share(trajectories))} if prepared.plan.options.clips else {}),
        "predicted_radius": predicted,
        "final": lists(trajectories.params),
        "loss": lists(trajectories.loss),
    }
    curves = trajectories.curves
    if not prepared.task.is_quadratic and prepared.plan.has_weight_decay:
        columns["objective"] = lists(trajectories.objective)
    if curves.validation_loss is not None:
        columns["validation_loss"] = lists(curves.validation_loss)
    if curves.path is not None:
        columns |= {f"param.{name}": lists(curves.path[:, :, j]) for j, name in enumerate(names)}
    return pa.table(columns).replace_schema_metadata(shard_metadata(prepared, trajectories.kernel, trajectories.device))
