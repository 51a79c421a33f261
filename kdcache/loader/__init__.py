"""The batches that a training sees: which rows each step takes, and their images, labels and targets."""
