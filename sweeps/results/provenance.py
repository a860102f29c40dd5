"""Provenance: the combinations that were skipped, the settings shared by all trials, and what is needed to rerun."""

from __future__ import annotations

import hashlib
from collections import Counter
from datetime import UTC, datetime

import pandas as pd

from sweeps.config.schema import HYPERPARAMETERS, SweepConfig
from sweeps.results.results import Results
from sweeps.text.formatting import cell, heading, meaning

_MAX_STARTS = 4  # start values to show


def dropped_and_merged(results: Results) -> pd.DataFrame:
    """Return the number of combinations that were dropped or merged into another trial, by reason."""
    rows = [
        {"what": what, "reason": reason, "combinations": int(count)}
        for what, counts in (("dropped", _summed(results, "dropped")), ("merged", _summed(results, "merged")))
        for reason, count in counts.items()
    ]
    return pd.DataFrame(rows, columns=["what", "reason", "combinations"])


def _summed(results: Results, what: str) -> Counter[str]:
    """Sum the counts by reason over all stages."""
    return sum((Counter(getattr(stage, what)) for stage in results.extent.stages), Counter())


def settings(results: Results) -> pd.DataFrame:
    """Return the settings shared by all trials: task, training and the hyperparameters that are not swept."""
    task, training = results.config.task, results.config.training
    data = ", ".join(f"{k} {_plain(v)}" for k, v in task.dataset.model_dump(exclude_unset=True).items() if k != "kind")
    rows = {
        "data set": f"{task.dataset.kind}{f': {data}' if data else ''}",
        "model": f"{task.model.kind}, {len(results.parameters)} parameters",
        "loss": task.loss_text,
        "epochs": f"{training.epochs:,}",
        "batch size": f"{training.batch_size:,}",
        "order": training.order,
        "early stopping": _early_stopping(results.config),
        "dtype": training.dtype,
        "steps": f"{int(results.manifest['steps']):,}" if "steps" in results.manifest else None,
        "kernel": results.metadata["kernel"],
        "prediction": results.metadata["prediction"],
    }
    if results.stored:
        fixed = [
            *HYPERPARAMETERS,
            *results.options,
            *(results.starts if len(results.starts) <= _MAX_STARTS else []),
            "seed",
        ]
        constant = {c: results.values[c].values for c in fixed if c not in results.axes and len(results.values[c]) == 1}
        rows |= {heading(c): cell(meaning(values[0], c), c) for c, values in constant.items()}
    return pd.DataFrame([(k, v) for k, v in rows.items() if v is not None], columns=["setting", "value"])


def _early_stopping(config: SweepConfig) -> str | None:
    rule = config.training.early_stopping
    if rule is None:
        return None
    named = config.stopping_loss.replace("_", " ") if config.stopping_loss == "validation_loss" else "training loss"
    return f"patience {rule.patience} recorded points, min_delta {rule.min_delta:g}, of the {named}"


def provenance(results: Results) -> pd.DataFrame:
    """Return the origin of the results: sweep, digests of data and plan, kernel, device and versions."""
    manifest = results.manifest
    config = hashlib.sha256(results.files.config_yaml().encode()).hexdigest()
    rows = {
        "sweep": results.files.sweep_id,
        "created": manifest.get("created"),
        "data (digest)": manifest.get("data", {}).get("digest"),
        "data, model and training (digest)": manifest.get("context"),
        "config.yaml (SHA-256)": config,
        "kernel": results.metadata["kernel"],
        "device": results.metadata["device"],
        "shards": f"{len(results.shards):,} of {results.extent.shards:,}",
        **manifest.get("versions", {}),
    }
    return pd.DataFrame([(k, str(v)) for k, v in rows.items() if v is not None], columns=["what", "value"])


def _plain(value: object) -> str:
    if isinstance(value, tuple):
        shown = ", ".join(map(_plain, value[:8]))
        return f"[{shown}, ... {len(value):,} values]" if len(value) > 8 else f"[{shown}]"
    return cell(value)


def created(results: Results) -> str:
    """Return the time at which the sweep was planned, in UTC."""
    moment = str(results.manifest.get("created", ""))
    try:
        return f"{datetime.fromisoformat(moment).astimezone(UTC):%Y-%m-%d %H:%M} UTC"
    except ValueError:
        return moment
