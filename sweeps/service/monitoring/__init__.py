"""Event log, progress files and Prometheus metrics."""
