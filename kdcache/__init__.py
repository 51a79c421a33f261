"""kdcache: an offline cache of teacher answers and a fast student trainer.

Stage 1 (`kdcache.jobs.dump`) shows a large teacher every image once under seeded augmentations and keeps its answers.
Stage 2 (`kdcache.jobs.train`) replays exactly those augmentations and trains students with no teacher in memory.
"""

# First of all: what is imported after it looks for the user's name and home folder.
from kdcache import account as account

__version__ = "0.1.0"
