"""`kdcache report`: one self-contained HTML page about runs, their scores and their cache."""
