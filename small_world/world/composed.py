"""Styles composed of three known words, `<palette> <ground> <technique>`: 1,920 of them.

"crimson dotted outlined" is the crimson palette on a dotted ground, drawn with outlines.  One in
six is held out: new combinations of parts that the base model knows.
"""

from colorsys import hls_to_rgb
from itertools import product
from zlib import crc32

from .styles import Style

# Hue (degrees), saturation, lightness of the main colour; hue and lightness of the ground.
PALETTES = {
    "crimson": (348, 0.83, 0.47, 40, 0.86), "amber": (40, 1.0, 0.50, 215, 0.28),
    "teal": (178, 0.80, 0.32, 30, 0.85), "violet": (275, 0.65, 0.50, 55, 0.86),
    "olive": (62, 0.50, 0.35, 20, 0.80), "salmon": (12, 0.90, 0.66, 195, 0.35),
    "navy": (222, 0.70, 0.26, 200, 0.84), "lavender": (262, 0.60, 0.78, 262, 0.32),
    "emerald": (150, 0.75, 0.36, 330, 0.85), "ivory": (48, 0.70, 0.88, 0, 0.35),
    "turquoise": (174, 0.72, 0.56, 240, 0.20), "mustard": (46, 0.75, 0.47, 100, 0.82),
    "slate": (212, 0.18, 0.44, 25, 0.62), "magenta": (310, 0.90, 0.48, 180, 0.82),
    "indigo": (250, 0.65, 0.36, 30, 0.72), "maroon": (0, 0.65, 0.26, 150, 0.78),
    "mint": (155, 0.55, 0.76, 275, 0.40), "azure": (208, 0.95, 0.56, 60, 0.80),
    "bronze": (30, 0.55, 0.42, 190, 0.22), "rust": (16, 0.75, 0.42, 215, 0.75),
}  # fmt: skip
GROUNDS = {
    "plain": "flat", "striped": "hstripes", "dotted": "bigdots", "checked": "bigchecks",
    "gridded": "grid", "wavy": "waves", "rayed": "rays", "ringed": "rings", "scaly": "scales",
    "speckled": "blotches", "fading": "fall", "slanted": "broad",
}  # fmt: skip
# Everything but the colours; `ink` says whether lines are dark or light, `ground` how light the
# ground is whatever the palette says.
TECHNIQUES = {
    "solid": {},
    "outlined": {"outline": 1.8, "ink": "dark"},
    "hatched": {"fill": "hatch", "fill_depth": 0.7, "outline": 1.0, "ink": "dark"},
    "glowing": {"outline": 1.4, "ink": "light", "finish": "glow", "ground": 0.12},
    "embossed": {"finish": "emboss"},
    "pixelated": {"finish": "pixelate"},
    "spotted": {"fill": "dots", "fill_depth": 0.8, "ink": "light"},
    "wobbly": {"wobble": 1.6, "outline": 1.2, "ink": "light"},
}


def compose(name: str) -> Style:
    """The style called by a palette, a ground and a technique word; `KeyError` for other names."""
    parts = name.split()
    if len(parts) != 3:
        raise KeyError(name)
    hue, saturation, lightness, ground_hue, ground_lightness = PALETTES[parts[0]]
    technique = dict(TECHNIQUES[parts[2]])
    dark, light = _hex(hue, 0.6, 0.12), _hex(hue, 0.7, 0.96)
    second = _hex(hue + 32, saturation, 0.3 + 0.5 * lightness)
    accent = _hex(hue + 180, 0.75, 0.55)
    ink = {"dark": dark, "light": light}[technique.pop("ink", "dark")]
    ground_lightness = technique.pop("ground", ground_lightness)
    other = ground_lightness + (-0.16 if ground_lightness > 0.5 else 0.16)
    ground = [_hex(ground_hue, 0.55, level) for level in (ground_lightness, other)]
    return Style(
        (_hex(hue, saturation, lightness), second, accent, dark, light),
        (ground[0], ground[1]),
        behind=GROUNDS[parts[1]],
        ink=ink,
        **technique,
    )


def _hex(hue: float, saturation: float, lightness: float) -> str:
    channels = hls_to_rgb(hue % 360 / 360, lightness, saturation)
    return "#" + "".join(f"{round(255 * channel):02x}" for channel in channels)


PARTS = (*PALETTES, *GROUNDS, *TECHNIQUES)
COMPOSED = tuple(" ".join(parts) for parts in product(PALETTES, GROUNDS, TECHNIQUES))
HELD_OUT_COMPOSED = tuple(name for name in COMPOSED if crc32(name.encode()) % 6 == 1)
TRAINED_COMPOSED = tuple(name for name in COMPOSED if name not in HELD_OUT_COMPOSED)
