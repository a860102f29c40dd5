"""The plan: from a config to numbered trials with ids, packed into shards."""
