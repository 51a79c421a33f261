"""Counter-based random numbers (Philox) and elementary functions that give the same bits on every processor."""
