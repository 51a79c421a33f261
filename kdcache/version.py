"""The version of kdcache, which caches, runs and pages name."""

__version__ = "0.1.0"
