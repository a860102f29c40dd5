"""Executors: where shards run; inline (this process) and Ray behind one interface, one conformance suite for both."""
