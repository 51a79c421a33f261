"""Augmentations as plans: policies, operations, view sets, and the pixel kernels that obey them."""
