"""Stage 2: train a student from views and targets, and keep the run in a folder that it goes on from."""
