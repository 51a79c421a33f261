"""Upper limits of sizes and counts, far above real values.

Numbers in a file, an option or a setting are accepted up to these limits, so that a typing error, or a hostile file of
one kilobyte, cannot use all of the memory or run forever.
"""

#: Pixels per side of a model's input.
MAX_SIZE = 2**14
#: Rows of a batch over all processes.
MAX_BATCH = 2**20
#: Classes of a data set, and outputs of a classifier.
MAX_CLASSES = 2**23
#: Epochs of a training, and settings counted in epochs.
MAX_EPOCHS = 1_000_000
#: Views of a cache, whose arrays have room for these from the start.
MAX_VIEWS = 2**16
#: Random seeds have 32 bits: half of a 64-bit Philox key.
MAX_SEED = 2**32 - 1
