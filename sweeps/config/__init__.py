"""The sweep file: schema, reading, overrides, checks and messages."""
