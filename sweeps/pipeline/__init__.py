"""The pipeline, which creates, runs, resumes, logs and publishes sweeps."""
