"""The command line of kdcache: each command parses its options, calls the library and prints the report."""
