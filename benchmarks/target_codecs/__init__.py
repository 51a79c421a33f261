"""The parts of `benchmarks/compact.py`."""
