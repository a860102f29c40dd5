"""The store, which holds the files of all sweeps, in a folder or on S3."""
