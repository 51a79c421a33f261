"""Losses, as pure functions of a student's outputs, targets and labels."""
