"""The outcome of a sweep in words."""

from __future__ import annotations

import numpy as np
import pandas as pd

from sgdcore.verdict import VERDICTS
from sweeps.report.trial_tables import MAX_COLUMNS, best_trials
from sweeps.results.results import Results
from sweeps.results.stability_edge import breaking_factor, edge_in_row, lr_maps
from sweeps.text.formatting import cell, heading, meaning, number, percent


def lead_sentences(results: Results) -> list[str]:
    """The outcome in plain words: how many trials converge, where the edge of stability is, what to use."""
    if not results.stored:
        return [headline(results)]
    return [line for line in (headline(results), edge_sentence(results), advice(results)) if line]


def headline(results: Results) -> str:
    """The outcome in a sentence."""
    done, planned = results.stored, results.planned
    if not done:
        return f"None of the {planned:,} trials is stored yet."
    counts = dict(zip(VERDICTS, results.aggregate.verdicts.tolist(), strict=True))
    so_far = f"{done:,} of {planned:,} trials are stored; " if done < planned else ""
    arrived = counts["converged"]
    share = f" ({percent(arrived, done)})" if arrived else ""
    converged = f"{f'{arrived:,}' if arrived else 'none'} of {done:,} trials converged{share}"
    bad = counts["diverged"] + counts["diverging"]
    words = " or ".join(word for word in ("diverged", "are diverging") if counts[word.split()[-1]])
    lost = (f", {bad:,} {words}" if bad > 1 else f", one {words.replace('are', 'is')}") if bad else ""
    best = best_trials(results, 1)
    if not len(best):
        return _sentence(f"{so_far}{converged}{lost}")
    metric = results.config.metric.name
    row = best.iloc[0]
    at = ", ".join(f"{heading(name)} {cell(row[name])}" for name in results.swept[:MAX_COLUMNS])
    what = "final loss" if metric == "final_loss" else "loss on the way"
    return _sentence(f"{so_far}{converged}{lost}; the best {what} is {number(row[metric])}{f', at {at}' if at else ''}")


def finding(results: Results) -> str | None:
    """Where theory and outcome disagree, and what can be behind it; None where they do not."""
    grew, _, settled = results.aggregate.predictions.contradicted.tolist()
    causes = {
        "that theory lets settle ended above the start: on a noise floor, of batches without a common optimum near "
        "the stable boundary, or beyond the range of the dtype": grew,
        "that theory lets diverge did not: for a start without the growing direction, or an error in "
        "the theory": settled,
    }
    found = [f"{count:,} {'trial' if count == 1 else 'trials'} {cause}" for cause, count in causes.items() if count]
    return "; ".join(found) or None


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def edge_sentence(results: Results) -> str | None:
    """Where the edge is, at the least value of the axis beside lr and at the best trial's, or else at the largest.

    None where lr is no axis, or nothing settled.
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
    told = []
    for i in dict.fromkeys(rows):
        where = f"at {heading(name)} {cell(meaning(cells.axes[1].labels[i], name), name)} " if name else ""
        told.append(f"{where}{_edge_words(edge_in_row(cells, i))}")
    title = f" ({panel.title})" if panel.title else ""
    of_the_best = ", the best of each setting's trials" if (cells.trials > 1).any() else ""
    return f"The edge of stability{title}{of_the_best}: {'; '.join(told)}."


def advice(results: Results) -> str | None:
    """What to use: the best trial's settings, how soon it arrives, and how far from the edge it is.

    None where it did not converge.
    """
    best = results.shown(results.aggregate.best_settled)
    axes = [name for name in results.swept if name != "seed"]
    if not len(best) or not axes or best["verdict"].iloc[0] != "converged":
        return None
    row = best.iloc[0]
    told = f"Use {', '.join(f'{heading(name)} {cell(row[name], name)}' for name in axes[:6])}"
    if pd.notna(row["steps_to_tolerance"]):
        told += f": within tolerance after {row['steps_to_tolerance']:,} steps"
    factor = breaking_factor(results, int(row["trial"]), float(row["lr"]))
    if factor is not None:
        told += f"; at {number(factor, 2)} times that lr it breaks"
    return f"{told}."


def _edge_words(edge: dict[str, float]) -> str:
    if np.isnan(edge["breaks_at"]):
        return "every lr settles"
    if np.isnan(edge["largest_settling"]):
        return "no lr settles"
    if np.isnan(edge["settles_up_to"]):
        return f"already the least lr breaks, others settle up to {number(edge['largest_settling'])}"
    told = f"trials settle up to lr {number(edge['settles_up_to'])} and break at {number(edge['breaks_at'])}"
    if edge["largest_settling"] > edge["breaks_at"]:
        told += f", though some settle again up to {number(edge['largest_settling'])}"
    return told
