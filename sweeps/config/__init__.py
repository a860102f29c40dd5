"""The sweep file: schema, loading, overrides, checks and error messages."""
