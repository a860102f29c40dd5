"""The store: the files of every sweep, in a folder or on S3."""
