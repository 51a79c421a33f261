"""Shards of samples and their index: keys, labels, sizes, orders; importers from other layouts."""
