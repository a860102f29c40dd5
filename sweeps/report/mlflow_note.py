"""The Markdown note that MLflow's UI shows on the sweep's parent run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from sweeps.report.headline import lead_sentences
from sweeps.report.notices import FILES, made_by, notices
from sweeps.report.trial_tables import best_trials, verdict_counts
from sweeps.results.provenance import created
from sweeps.results.results import Results
from sweeps.text.formatting import cell, escaped, heading, markdown
from sweeps.tracking.names import NOTE_LENGTH, TRIAL_ID, VERDICT

if TYPE_CHECKING:
    from sweeps.tracking.base import ModelPlace

_TRAINING = "?workflowType=machine_learning"  # without it, MLflow's UI opens the view for language models
_ROWS = 10  # best trials to list
_DESCRIPTION = 1000  # maximum characters of the description


def note(
    results: Results,
    place: dict[str, Any],
    runs: dict[int, str],
    model: ModelPlace | None = None,
    files: list[str] | None = None,
) -> str:
    """Return the note: summary, verdicts, best trials with links to their runs, and how to find more.

    Links are relative to MLflow's UI, so they work wherever it is served. If the text exceeds MLflow's limit, rows of
    the best trials are dropped first.

    Args:
        results: Results of the sweep.
        place: The parent run's ``experiment_id`` and ``run_id`` in MLflow.
        runs: MLflow run ids of the best trials, by trial number; trials without their own run are missing.
        model: The best trial's model, if it is logged.
        files: Paths of additional artifacts to link to.
    """
    for rows in (_ROWS, 3, 0):
        text = "\n\n".join(_parts(results, place, runs, model, files or [], rows)) + "\n"
        if len(text) <= NOTE_LENGTH:
            return text
    return text[: NOTE_LENGTH - 2] + "…\n"


def _parts(
    results: Results,
    place: dict[str, Any],
    runs: dict[int, str],
    model: ModelPlace | None,
    files: list[str],
    rows: int,
) -> list[str]:
    description = results.config.description
    short = description[:_DESCRIPTION] + ("…" if len(description) > _DESCRIPTION else "")
    parts = [f"**{escaped(' '.join(lead_sentences(results)))}**", escaped(short)]
    parts += [escaped(notice) for notice in notices(results)]
    artifacts = f"{_run(place['experiment_id'], place['run_id'])}/artifacts"
    report = [f"report/{FILES[kind]}" for kind in ("html", "md")]
    links = [f"[{path.rpartition('/')[2]}]({artifacts}/{quote(path)}{_TRAINING})" for path in [*report, *files]]
    parts.append(f"See: {', '.join(links).replace('_', '&#95;')}")
    if results.stored:
        parts += ["### Verdicts", markdown(verdict_counts(results))]
    parts += _best(results, place, runs, rows)
    parts += _find(results, model)
    parts.append(f"Sweep {results.files.sweep_id}, planned {created(results)}; {escaped(made_by(results))}.")
    return [part for part in parts if part]


def _best(results: Results, place: dict[str, Any], runs: dict[int, str], rows: int) -> list[str]:
    best = best_trials(results, rows)
    if not len(best):
        return []
    head = [escaped(heading(name)) for name in best]
    lines = [f"| {' | '.join(head)} |", f"| {' | '.join(['---'] * len(head))} |"]
    for row in best.to_dict("records"):
        cells = [escaped(cell(row[name], name)) for name in best]
        run = runs.get(row["trial"])
        if run:
            cells[0] = f"[{row['trial']}]({_run(place['experiment_id'], run)}{_TRAINING})"
        lines.append(f"| {' | '.join(cells)} |")
    metric = heading(results.metric)
    return [f"### Best trials, by {metric}", "\n".join(lines)]


def _find(results: Results, model: ModelPlace | None) -> list[str]:
    """Explain how to find trials in MLflow's UI and on the command line."""
    sweep_id = results.files.sweep_id[:8]
    best = best_trials(results, 1)["trial"].tolist()
    search = [f"tags.\"{VERDICT}\" = 'diverged'"]
    search += [f"tags.\"{TRIAL_ID}\" = '{row['trial_id']}'" for row in results.ids(best)]
    commands = [
        f"sweeps show {sweep_id}          # show the map and the figures in the terminal",
        f"sweeps replay {sweep_id} {best[0] if best else 'TRIAL'}    # replay a trial with torch.optim.SGD",
        f"sweeps report {sweep_id}        # write the report again",
    ]
    parts = [
        "### Find trials",
        "In the search field above the runs, search for a verdict or a single trial:",
        _code(search),
        "On the command line:",
        _code(commands),
    ]
    if model is not None:
        parts += [
            "### The best trial's model",
            f"[{escaped(model.uri)}]({model.page}) predicts from the features of the data set:",
            _code([f'mlflow.pyfunc.load_model("{model.uri}").predict(table)']),
        ]
    return parts


def experiment_page(experiment_id: str) -> str:
    """Return the page of an experiment's runs, relative to MLflow's address."""
    return f"#/experiments/{experiment_id}/runs{_TRAINING}"


def _run(experiment_id: str, run_id: str) -> str:
    return f"#/experiments/{experiment_id}/runs/{run_id}"


def _code(lines: list[str]) -> str:
    return "\n".join(["```", *lines, "```"])
