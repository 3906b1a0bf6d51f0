"""Whether pictures that should be the same are."""

from __future__ import annotations

from collections.abc import Mapping


def complaints(differences: Mapping[str, float | None], tolerance: float) -> list[str]:
    """A line for each way that did not run or differs by more than the tolerance. differences: by
    way; None where it did not run. What is no number differs."""
    found = []
    for way, difference in differences.items():
        if difference is None:
            found.append(f"{way} did not run")
        elif not difference <= tolerance:
            found.append(f"{way} differs by {difference:.1e}, and {tolerance:.1e} is allowed")
    return found
