"""The report's plotly figures, also for notebooks; a function returns None if there is nothing to draw."""

from sweeps.report.figures.comparison import compared_curves, compared_maps, compared_shares
from sweeps.report.figures.convergence_speed import convergence_speed
from sweeps.report.figures.history import history_lines
from sweeps.report.figures.loss_curves import loss_curves, sampled_trials
from sweeps.report.figures.main_effects import main_effects
from sweeps.report.figures.parameter_paths import parameter_paths
from sweeps.report.figures.prediction_histogram import prediction_histogram
from sweeps.report.figures.seed_intervals import seed_intervals
from sweeps.report.figures.stability_map import stability_map
from sweeps.report.figures.verdict_changes import changed_map
from sweeps.report.figures.verdict_shares import verdict_shares

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
