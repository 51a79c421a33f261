"""Parts of benchmarks/loader.py."""
