"""Stage 1: run a teacher over the views of a data set, and write its targets to a cache."""
