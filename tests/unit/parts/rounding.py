"""How far float32 may part two ways to the same sums: measured, and never a number of ours."""

from __future__ import annotations

import torch

EPS = torch.finfo(torch.float32).eps


def units(a: torch.Tensor, b: torch.Tensor) -> float:
    """Largest difference, in float32's precision at the largest value (where that exceeds 1)."""
    largest = max(1.0, b.abs().max().item())
    return (a.double() - b.double()).abs().max().item() / (EPS * largest)


def allowed(single: torch.Tensor, double: torch.Tensor) -> float:
    """Four times the units by which a reference in float32 misses itself in float64, and 4."""
    return 4 * (units(single, double) + 1)
