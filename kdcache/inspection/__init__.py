"""Looking at a cache and checking it: inspect, verify, preview, copy, and the check of shards."""
