"""The report's figures, as plotly figures that also show in a notebook; None where there is nothing to show."""

from sweeps.report.figures.changes import changed_map
from sweeps.report.figures.compared import compared_curves, compared_maps, compared_shares
from sweeps.report.figures.curves import loss_curves, sampled_trials
from sweeps.report.figures.effects import main_effects
from sweeps.report.figures.history import history_lines
from sweeps.report.figures.maps import stability_map
from sweeps.report.figures.paths import parameter_paths
from sweeps.report.figures.seeds import seed_intervals
from sweeps.report.figures.shares import verdict_shares
from sweeps.report.figures.speed import convergence_speed
from sweeps.report.figures.theory import prediction_histogram

__all__ = [
    "changed_map",
    "compared_curves",
    "compared_maps",
    "compared_shares",
    "convergence_speed",
    "history_lines",
    "loss_curves",
    "main_effects",
    "parameter_paths",
    "prediction_histogram",
    "sampled_trials",
    "seed_intervals",
    "stability_map",
    "verdict_shares",
]
