"""The pipeline: create, run, resume and publish a sweep."""
