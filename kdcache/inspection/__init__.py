"""Inspection of caches and shards: the commands inspect, verify, preview, copy, and the check of images."""
