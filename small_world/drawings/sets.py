"""The emoji sets, what each is for, and which objects they draw.

A set is a style: the same object drawn by another hand.  The base model goes on learning with the
*trained* sets; settings are chosen on the *tuning* sets, and reported on the *report* sets.
"""

from dataclasses import dataclass

from ..world.icons import ICONS
from ..world.objects import DRAWN, TRAINED_OBJECTS


@dataclass(frozen=True)
class EmojiSet:
    """name, version: of the npm package @iconify-json/<name>. word: what captions call it, a style
    word that the text encoder knows; none where no base model learns it."""

    name: str
    version: str
    word: str = ""


TRAINED_SETS = (
    EmojiSet("fluent-emoji-flat", "1.2.6", "flat"),
    EmojiSet("noto", "1.2.9", "poster"),
    EmojiSet("twemoji", "1.2.5", "pastel"),
    EmojiSet("emojione", "1.2.3", "retro"),
    EmojiSet("emojione-monotone", "1.2.1", "noir"),
)
TUNING_SETS = (EmojiSet("fxemoji", "1.2.2"), EmojiSet("emojione-v1", "1.2.3"))
REPORT_SETS = (
    EmojiSet("openmoji", "1.2.29"),
    EmojiSet("streamline-emojis", "1.2.4"),
    EmojiSet("fluent-emoji-high-contrast", "1.2.6"),
    EmojiSet("noto-v1", "1.2.5"),
)
SETS = {one.name: one for one in (*TRAINED_SETS, *TUNING_SETS, *REPORT_SETS)}
SETTLED = "fluent-emoji-flat"  # its names and characters say what an object is called elsewhere

# Names there of hand-drawn objects that are called otherwise, and of those that have none.
OTHER_NAMES = {
    "bee": "honeybee", "car": "automobile", "boat": "sailboat", "plane": "airplane",
    "tree": "deciduous-tree", "leaf": "maple-leaf", "palm": "palm-tree", "pine": "evergreen-tree",
    "apple": "red-apple", "cherry": "cherries", "cake": "birthday-cake",
    "icecream": "soft-ice-cream", "lamp": "light-bulb", "clock": "alarm-clock",
    "note": "musical-note", "heart": "red-heart", "moon": "crescent-moon", "gem": "gem-stone",
    "hat": "top-hat", "tower": "tokyo-tower", "cup": "hot-beverage", "flower": "", "windmill": "",
    "sword": "",
}  # fmt: skip
NAMES = {
    word: name
    for word, name in (
        *((word, OTHER_NAMES.get(word, word)) for word in DRAWN),
        *((word, icon.source) for word, icon in ICONS.items()),
    )
    if name
}

# Never seen by the shipped base model in any style, and drawn by every set.
TUNING_WORDS = tuple("cow violin factory television kimono rooster".split())
REPORT_WORDS = tuple(
    "bicycle trumpet skull monkey snake tiger ambulance helicopter ship tractor hospital calendar "
    "clipboard radio rainbow snowflake watch hourglass".split()
)
HELD_OUT_WORDS = (*TUNING_WORDS, *REPORT_WORDS)
TRAINED_WORDS = tuple(word for word in NAMES if word not in HELD_OUT_WORDS)
assert not {*HELD_OUT_WORDS} & {*TRAINED_OBJECTS}
