"""The command line of kdcache: parses, builds a request, calls the library's job and prints what it says."""
