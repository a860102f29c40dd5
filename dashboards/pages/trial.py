"""A trial on its sweep's page: settings, outcome, curve and path, MLflow run, and replay against torch.optim.SGD."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import pandas as pd
from dash import Dash, Input, Output, State, html, no_update

from dashboards import components, map_selection
from dashboards.context import Context
from dashboards.store_cache import Row, Seen
from dashboards.urls import query, sweep_path, with_query
from sweeps.arrow_columns import VALIDATION_LOSSES
from sweeps.errors import SweepsError
from sweeps.report import figures
from sweeps.results.loss_surface import loss_surface
from sweeps.results.results import Results
from sweeps.text.formatting import cell as shown
from sweeps.text.formatting import heading
from sweeps.verification.replay import Replay, replay_trial

MOST_STEPS = 2000  # limit of a replay
_ENDS = 8  # number of first and last steps of a replay that are shown
_FACTS = (
    "final_loss",
    "best_loss",
    *VALIDATION_LOSSES,
    "best_epoch",
    "stopped_epoch",
    "steps_to_tolerance",
    "first_nonfinite_step",
    "overshoot_percent",
    "predicted_radius",
)

_replaying = threading.Lock()  # a replay computes, so only one runs at a time


def section(
    context: Context, row: Row, seen: Seen, chosen: map_selection.Cell | None, asked: Mapping[str, str]
) -> list[Any] | None:
    """Return the section of the trial that the address names, or None."""
    number = asked.get("trial", "")
    if not number.isdecimal() or len(number) > 18:
        return None
    results = seen.results
    rows = results.rows([int(number)])
    if not len(rows):
        return [html.H2(f"Trial {number}"), components.notice("This trial is not stored yet.")]
    trial = rows.iloc[0]
    close = with_query(sweep_path(row.sweep_id), {**asked, "trial": None})
    links = [components.link("Close", close, className="button")]
    if (address := context.mlflow.trial(row, str(trial["trial_id"]))) is not None:
        links.insert(0, components.outside("MLflow run", address, className="button"))
    drawn = [html.Div([html.H3("Loss"), components.graph("trial-curve", _curve(results, int(number)))])]
    if (path := _path(results, int(number))) is not None:
        drawn.append(html.Div([html.H3("Path over the loss"), components.graph("trial-path", path)]))
    return [
        html.Div([html.H2(["Trial ", str(number)]), html.Div(links, className="buttons")], className="head"),
        html.P([components.verdict(str(trial["verdict"])), html.Code(str(trial["trial_id"]))], className="over crumbs"),
        components.facts(_settings(results, trial) | _outcome(trial)),
        html.Div(drawn, className="pair" if len(drawn) > 1 else "single"),
        _replay_section(results, row, number),
    ]


def register(app: Dash, context: Context) -> None:
    """Register the replay's callback."""

    @app.callback(
        Output("replay", "children"),
        Input("replay-button", "n_clicks"),
        State("sweep-id", "data"),
        State("url", "search"),
        prevent_initial_call=True,
        running=[(Output("replay-button", "disabled"), True, False)],
    )
    def _replay(clicks: int | None, sweep_id: str, search: str | None) -> Any:
        number = query(search).get("trial", "")
        if not clicks or not number.isdecimal():
            return no_update
        try:
            files = context.catalogue.files(sweep_id)
            with _replaying:
                replayed = replay_trial(files, number, MOST_STEPS)
        except SweepsError as error:
            return components.notice(str(error))
        return _replayed(replayed)


def _settings(results: Results, trial: pd.Series) -> dict[str, Any]:
    return {heading(name): shown(trial[name], name) for name in results.swept[:12]}


def _outcome(trial: pd.Series) -> dict[str, Any]:
    facts = {heading(name): shown(trial[name], name) for name in _FACTS if pd.notna(trial.get(name))}
    if pd.notna(trial.get("overshoot_percent")) and trial["overshoot_percent"] > 0:
        of = f"{trial['overshoot_parameter']}, to {shown(trial['peak_value'])} at step {shown(trial['peak_step'])}"
        facts[heading("overshoot_percent")] = f"{facts[heading('overshoot_percent')]} ({of})"
    return facts


def _curve(results: Results, number: int) -> Any:
    return figures.loss_curves(results, [number]).update_layout(height=380, showlegend=False, margin_t=16)


def _path(results: Results, number: int) -> Any:
    surface = loss_surface(results)
    figure = figures.parameter_paths(results, surface, [number]) if surface is not None else None
    return figure.update_layout(height=380, margin_t=40) if figure is not None else None


def _replay_section(results: Results, row: Row, number: str) -> html.Div:
    command = html.Code(f"sweeps replay {row.sweep_id} {number}")
    if results.config.task.model.kind == "module":  # anyone who can write to the store could run code here
        hint = "A replay runs the sweep's own module. Start it in a terminal: "
        return html.Div([html.H3("Replay"), html.P([hint, command], className="note")])
    hint = f"Trains the trial again alongside torch, step by step, up to {MOST_STEPS:,} steps. In a terminal: "
    return html.Div(
        [
            html.H3("Replay against torch.optim.SGD"),
            html.P([hint, command], className="note"),
            html.Button("Replay", id="replay-button", className="button"),
            html.Div(id="replay", **components.aria(live="polite")),
        ],
        className="replay",
    )


def _replayed(replayed: Replay) -> list[Any]:
    frame = replayed.frame
    cut = len(frame) > 2 * _ENDS
    ends = pd.concat([frame.head(_ENDS), frame.tail(_ENDS)]) if cut else frame
    sign = "✓" if replayed.agrees else "✗"
    return [
        html.P([html.B(f"{sign} "), replayed.conclusion], className="yes" if replayed.agrees else "no"),
        html.P(f"The first and last {_ENDS} of {len(frame):,} steps.", className="note") if cut else None,
        components.table(ends.reset_index(drop=True)),
    ]
