"""The model families, a data file each: how a family is recognised, its layer sets, its names.

To add one: a file (unet/, picture/, video/, ...), a tiny model of its class in the host tests
(tests/host/parts/tiny_families), and `python -m craft_core families --markdown` into the README.
Its entries are those of `Family`.
"""

from .reader import (
    FAMILIES,
    NO_DENOISER,
    PRESETS,
    UNTRAINED,
    Family,
    FamilyPreset,
    in_block,
    mixes_rows,
    runs_early,
)

__all__ = [
    "FAMILIES",
    "NO_DENOISER",
    "PRESETS",
    "UNTRAINED",
    "Family",
    "FamilyPreset",
    "in_block",
    "mixes_rows",
    "runs_early",
]
