"""The parts of a sitting: each function yields tables of what it found, some of them several times as they grow."""
