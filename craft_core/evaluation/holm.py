"""p-values of several comparisons, corrected so that one false find in all of them stays rare.

Holm 1979 (A simple sequentially rejective multiple test procedure): the k-th smallest of m
p-values is multiplied by m - k + 1, and none comes out smaller than one before it.
"""

from __future__ import annotations

from collections.abc import Sequence


def holm(p_values: Sequence[float]) -> list[float]:
    """m p-values in [0, 1] -> m corrected ones in [0, 1], in the same order.

    A value outside [0, 1]: AssertionError.
    """
    assert all(0 <= p <= 1 for p in p_values)
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    corrected, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p_values[index]))
        corrected[index] = largest
    return corrected
