"""Executors, which run shards: inline (in this process) and on Ray, behind one interface."""
