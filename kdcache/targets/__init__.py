"""What is kept of a teacher's outputs, and how it is encoded into arrays."""
