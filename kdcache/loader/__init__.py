"""The batches of a training: the rows of each step, with their images, labels and targets."""
