"""The plan, which turns a config into numbered trials with ids, packed into shards."""
