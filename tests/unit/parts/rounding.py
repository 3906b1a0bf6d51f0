"""How far float32 rounding may separate two ways to compute the same sums: measured, never a fixed
number."""

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
