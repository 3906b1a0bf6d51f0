"""Which pairs of object and style the base model sees, and how often."""

import numpy as np

from ..world.composed import HELD_OUT_COMPOSED, TRAINED_COMPOSED
from ..world.icons import ICONS
from ..world.objects import CORE_OBJECTS, DRAWN, HELD_OUT_OBJECTS, TRAINED_OBJECTS
from ..world.styles import CORE_STYLES, HELD_OUT_STYLES, TRAINED_STYLES

TRAINED_DRAWN = tuple(name for name in TRAINED_OBJECTS if name in DRAWN)
TRAINED_ICONS = tuple(name for name in TRAINED_OBJECTS if name in ICONS)

# Kind of pair -> its objects, its styles.
KINDS = {
    "core": (CORE_OBJECTS, CORE_STYLES),
    "drawn": (TRAINED_DRAWN, TRAINED_STYLES),
    "icon": (TRAINED_ICONS, TRAINED_STYLES),
    "drawn, composed": (TRAINED_DRAWN, TRAINED_COMPOSED),
    "icon, composed": (TRAINED_ICONS, TRAINED_COMPOSED),
}
SHARES = dict(zip(KINDS, (0.08, 0.16, 0.26, 0.24, 0.26), strict=True))
# Never trained; for measuring only.
UNSEEN = {
    "new combination": (TRAINED_DRAWN, HELD_OUT_COMPOSED),
    "held-out object": (HELD_OUT_OBJECTS, TRAINED_STYLES),
    "held-out style": (TRAINED_OBJECTS, HELD_OUT_STYLES),
}


def pair(kind: str, rng: np.random.Generator) -> tuple[str, str]:
    """A random object and style of one kind of pair."""
    objects, styles = (KINDS | UNSEEN)[kind]
    return objects[rng.integers(len(objects))], styles[rng.integers(len(styles))]


def trained_pair(rng: np.random.Generator) -> tuple[str, str]:
    """A random pair of those the base model sees, kinds by their shares."""
    return pair(str(rng.choice(list(SHARES), p=list(SHARES.values()))), rng)
