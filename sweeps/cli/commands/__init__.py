"""The commands, one module per group: parse arguments, call the service, print the result."""
