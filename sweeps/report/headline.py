"""Sentences that summarise the outcome of a sweep."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd

from sgdcore.verdict import VERDICTS
from sweeps.report.trial_tables import MAX_COLUMNS, best_trials
from sweeps.results.recommendation import Recommendation, recommendation
from sweeps.results.results import Results
from sweeps.results.stability_edge import edge_in_row, lr_maps
from sweeps.text.formatting import cell, heading, meaning, number, percent


def lead_sentences(results: Results) -> list[str]:
    """Return the summary: how many trials converged, where the edge of stability is, and which setting to use."""
    if not results.stored:
        return [headline(results)]
    lines = headline(results), pruning_sentence(results), edge_sentence(results), advice(results)
    return [line for line in lines if line]


def headline(results: Results) -> str:
    """Summarise the outcome in one sentence."""
    done, planned = results.stored, results.planned
    if not done:
        return f"None of the {planned:,} trials is stored yet."
    counts = dict(zip(VERDICTS, results.aggregate.verdicts.tolist(), strict=True))
    so_far = f"{done:,} of {planned:,} trials are stored; " if done < planned else ""
    arrived = counts["converged"]
    share = f" ({percent(arrived, done)})" if arrived else ""
    converged = f"{arrived:,} of {done:,} trials converged{share}"
    if not arrived:
        still = counts["converging"]
        falling = f", but {still:,} {'is' if still == 1 else 'are'} still converging" if still else ""
        converged = f"none of {done:,} trials reached tolerance{falling}"
    bad = counts["diverged"] + counts["diverging"]
    words = " or ".join(word for word in ("diverged", "are diverging") if counts[word.split()[-1]])
    lost = (f", {bad:,} {words}" if bad > 1 else f", one {words.replace('are', 'is')}") if bad else ""
    best = best_trials(results, 1)
    if not len(best):
        return _sentence(f"{so_far}{converged}{lost}")
    metric = results.metric
    if len(means := results.fold_means):
        return _sentence(f"{so_far}{converged}{lost}; {_best_mean(results, means.iloc[0])}")
    row = best.iloc[0]
    at = ", ".join(f"{heading(name)} {cell(row[name])}" for name in results.swept[:MAX_COLUMNS])
    return _sentence(
        f"{so_far}{converged}{lost}; the best {LOSSES[metric]} is {number(row[metric])}{f', at {at}' if at else ''}"
    )


def _best_mean(results: Results, row: pd.Series) -> str:
    at = ", ".join(f"{heading(name)} {cell(row[name], name)}" for name in results.settings if name in row.index)
    folds = results.config.task.dataset.folds
    return (
        f"the best {LOSSES[results.metric]}, as a mean over {folds} folds, is {number(row['mean'])} "
        f"(standard error {number(row['standard_error'], 2)}){f', at {at}' if at else ''}"
    )


LOSSES = {
    "final_loss": "final loss",
    "best_loss": "loss during training",
    "final_validation_loss": "final validation loss",
    "best_validation_loss": "validation loss during training",
}


def pruning_sentence(results: Results) -> str | None:
    """Say how many trials early termination stopped, and what that saved; None without early termination."""
    pruned, saved = results.pruning
    if not pruned:
        return None
    text = f"early termination pruned {pruned:,} of {results.stored:,} trials, for {number(1 / (1 - saved), 3)} times "
    return _sentence(f"{text}fewer epochs than training all to the end")


def finding(results: Results) -> str | None:
    """Describe contradictions between prediction and outcome, with possible causes; None if there are none."""
    grew, _, settled = results.aggregate.predictions.contradicted.tolist()
    causes = {
        "predicted to settle ended above the initial loss (possible causes: a noise floor, batches without a common "
        "optimum near the stability boundary, or values beyond the range of the dtype)": grew,
        "predicted to diverge did not (possible causes: a start without a component in the growing direction, or an "
        "error in the theory)": settled,
    }
    found = [f"{count:,} {'trial' if count == 1 else 'trials'} {cause}" for cause, count in causes.items() if count]
    return "; ".join(found) or None


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def edge_sentence(results: Results) -> str | None:
    """Describe the edge of stability at two values of the axis next to lr: the smallest one and the best trial's.

    If these are the same, the second is the largest value. None if lr is not an axis or no trial settled.
    """
    best = results.shown(results.aggregate.best_settled)
    found = lr_maps(results)
    if not found or not len(best):
        return None
    panel, cells, name = next((part for part in found if best["trial"].iloc[0] in part[1].trial), found[0])
    rows = [0]
    if name:
        used = int(cells.axes[1].places([float(best[name].iloc[0])])[0])
        rows += [used or cells.trial.shape[1] - 1]
    edges = []
    for i in dict.fromkeys(rows):
        where = f"at {heading(name)} {cell(meaning(cells.axes[1].labels[i], name), name)} " if name else ""
        edges.append(f"{where}{_edge_words(edge_in_row(cells, i))}")
    title = f" ({panel.title})" if panel.title else ""
    of_the_best = ", for the best trial of each setting" if (cells.trials > 1).any() else ""
    return f"The edge of stability{title}{of_the_best}: {'; '.join(edges)}."


def advice(results: Results) -> str | None:
    """Say which setting to use, its metric, its speed and its distance from the edge of stability, with warnings."""
    found = recommendation(results)
    if found is None:
        return None
    measured = f"{LOSSES[found.metric]} {number(found.value)}"
    if found.interval is not None:
        low, high = found.interval
        repeats = " and ".join(f"{name}s" for name in results.repeats if name in results.axes)
        measured = (
            f"mean {measured} (95 % interval {number(low)} to {number(high)}, {found.repeats} trials over {repeats})"
        )
    sentences = [f"Use {_setting(found.setting)}: {measured}{_speed(results, found)}{_margin(found)}"]
    if found.equals > 1:
        fastest = "one of" if math.isnan(found.speed) else "the fastest of"
        theory = ", by theory: the error shrinks by {} in an epoch" if found.is_fastest_by_theory else ""
        equals = f"It is {fastest} {found.equals:,} settings that cannot be told from the best"
        sentences.append(f"{equals}{theory.format(f'a factor of {number(found.growth, 3)}')}")
    if found.safer is not None:
        sentences.append(f"The next of them with more distance from the edge is {_setting(found.safer)}")
    sentences += [f"{heading(name)} is the {end} of its axis: extend it" for name, end in found.ends.items()]
    return " ".join(map(_sentence, sentences))


def _setting(values: dict[str, Any]) -> str:
    return ", ".join(f"{heading(name)} {cell(value, name)}" for name, value in list(values.items())[:MAX_COLUMNS])


def _speed(results: Results, found: Recommendation) -> str:
    if math.isnan(found.speed):
        return ", not within tolerance yet: train longer"
    unit = "epochs" if results.time == "epoch" or found.repeats > 1 else "steps"
    every = " on average" if found.repeats > 1 else ""
    return f"; it reaches tolerance after {number(found.speed, 4)} {unit}{every}"


def _margin(found: Recommendation) -> str:
    if found.margin is None:
        return ""
    close = ", close to the edge of stability: a smaller lr is safer" if found.is_close_to_the_edge else ""
    return f"; at {number(found.margin, 3)} times this lr it diverges{close}"


def _edge_words(edge: dict[str, float]) -> str:
    if np.isnan(edge["breaks_at"]):
        return "every lr settles"
    if np.isnan(edge["largest_settling"]):
        return "no lr settles"
    if np.isnan(edge["settles_up_to"]):
        return f"the smallest lr diverges, but others settle up to {number(edge['largest_settling'])}"
    text = f"trials settle up to lr {number(edge['settles_up_to'])} and diverge at {number(edge['breaks_at'])}"
    if edge["largest_settling"] > edge["breaks_at"]:
        text += f", although some settle again up to {number(edge['largest_settling'])}"
    return text
