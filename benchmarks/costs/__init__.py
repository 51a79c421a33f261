"""Parts of accuracy.py."""
