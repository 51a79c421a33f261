"""Warnings of libraries that a user can do nothing about; light, as every command imports it at its start."""

import warnings


def ignore_pillows_warnings() -> None:
    """Suppress Pillow's warnings about unusual headers in our own processes: they name no image."""
    warnings.filterwarnings("ignore", module=r"PIL(\.|$)")
