"""The names of tags and metrics in MLflow, and MLflow's limits."""

SWEEP_ID = "sweeps.sweep_id"
TRIAL_ID = "sweeps.trial_id"
VERDICT = "sweeps.verdict"
STOPPED_EARLY = "sweeps.stopped_early"  # true or false, in sweeps with early stopping
PRUNED_TAG = "sweeps.pruned"  # true or false, in sweeps with early termination
TRIAL_COUNT = "sweeps.trials"
BEST_TRIAL = "sweeps.best_trial_id"
TAG = "sweeps.tag."  # prefix of the user's own tags
MAX_FINAL_METRICS = 16  # runs of models with more parameters have no final/<name>; the shards have the values
NOTE_LENGTH = 8000  # characters; MLflow truncates longer tags
