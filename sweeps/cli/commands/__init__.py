"""The commands, one module per group. Each parses its arguments, calls the service and prints the result."""
