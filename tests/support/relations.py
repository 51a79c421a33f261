"""Features of a batch to relate, and what every relation between samples promises."""

import torch


def features(seed, rows=5, student=6, teacher=4, dtype=torch.float64):
    """Pooled features of both sides, as a ReLU leaves them: many zeros, nothing below."""
    random = torch.Generator().manual_seed(seed)
    return tuple(
        torch.randn(rows, width, generator=random, dtype=dtype).add(0.3).relu() for width in (student, teacher)
    )


def turned(rows, seed=0):
    """The rows after one rotation of their space."""
    random = torch.Generator().manual_seed(seed)
    width = rows.shape[1]
    rotation, _ = torch.linalg.qr(torch.randn(width, width, generator=random, dtype=rows.dtype))
    return rows @ rotation
