"""The cache on disk or in an object store: identity, entries, blocks with their records, reading, verification."""
