"""kdcache: an offline cache of teacher answers and a fast student trainer.

Stage 1 (`kdcache.dumping`) runs a large teacher once over every image under seeded augmentations and caches targets.
Stage 2 (`kdcache.training`) replays exactly those augmentations and trains students with no teacher in memory.
"""

# First of all: what is imported after it looks for the user's name and home folder.
from kdcache.runtime import account as account

__version__ = "0.1.0"
