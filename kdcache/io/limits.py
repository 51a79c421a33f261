"""The largest numbers that make sense, far more than anybody has.

What a file, an option or a setting says is believed up to here, so that a slip of the finger, or a hostile file of one
kilobyte, cannot ask for all of the memory or run for ever.
"""

#: Pixels a side of what a model sees.
MAX_SIZE = 2**14
#: Rows of a batch over all processes.
MAX_BATCH = 2**20
#: Classes of a data set, and outputs of a classifier.
MAX_CLASSES = 2**23
#: Passes over the data, and whatever else is counted in epochs.
MAX_EPOCHS = 1_000_000
#: Views of a cache, which has room for these from the start.
MAX_VIEWS = 2**16
#: Random seeds have 32 bits: half of a 64-bit Philox key.
MAX_SEED = 2**32 - 1
