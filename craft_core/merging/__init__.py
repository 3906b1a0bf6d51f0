"""Weight merges, one paper a file; bake.py makes factors of one, or of a run-time method."""

# Imported in the order of the menu.
from . import svd, ties, dare, knots  # isort: skip
from .bake import Baked, Totals, Writing, acting, bake_gates, bake_merge, require_rank, totals
from .file import Fused, FuseSettings, FuseSource, fused, moves
from .methods import MERGES, Updates

__all__ = [
    "MERGES",
    "Baked",
    "FuseSettings",
    "FuseSource",
    "Fused",
    "Totals",
    "Updates",
    "Writing",
    "acting",
    "bake_gates",
    "bake_merge",
    "dare",
    "fused",
    "knots",
    "moves",
    "require_rank",
    "svd",
    "ties",
    "totals",
]
