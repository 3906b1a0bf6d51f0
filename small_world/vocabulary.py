"""The closed vocabulary: every word the text encoder knows, and how a prompt becomes token ids."""

import re

from .architecture import TEXT_LENGTH, VOCABULARY_SIZE
from .world.composed import PARTS
from .world.icons import ICONS
from .world.objects import DRAWN, FAMILIES
from .world.styles import LATER_STYLES, STYLES

START, END, UNKNOWN = 0, 1, 2
FILLERS = (
    "a an the of in on with and style photo drawing picture painting print sketch image small big "
    "one simple art artwork scene isolated background made as like"
).split()
PLACEHOLDERS = ("sks", "zwx")
WORD = re.compile(r"[a-z0-9]+")


def build_words() -> dict[str, int]:
    """Word -> id: specials, fillers, placeholders, families, objects, styles, then what came later.

    New words go to the end, so that the ids of a trained text encoder stay what they were.
    """
    first_styles = [name for name in STYLES if name not in LATER_STYLES]
    first = [*FILLERS, *PLACEHOLDERS, *FAMILIES, *DRAWN, *first_styles]
    ordered = dict.fromkeys([*first, *ICONS, *PARTS, *LATER_STYLES])
    words = {"<start>": START, "<end>": END, "<unknown>": UNKNOWN}
    words.update({word: len(words) + i for i, word in enumerate(ordered)})
    assert len(words) <= VOCABULARY_SIZE, "raise VOCABULARY_SIZE and train again"
    return words


def split_words(text: str) -> list[str]:
    """Lower-case words of a prompt; punctuation only separates."""
    return WORD.findall(text.lower())


def encode(text: str, words: dict[str, int]) -> list[int]:
    """Prompt -> ids without start and end; an unknown word becomes the id of `<unknown>`."""
    return [words.get(word, UNKNOWN) for word in split_words(text)]


def padded_ids(text: str, words: dict[str, int]) -> list[int]:
    """TEXT_LENGTH ids: start, words, end, then end as padding, as the host pads."""
    ids = [START, *encode(text, words)][: TEXT_LENGTH - 1]
    return ids + [END] * (TEXT_LENGTH - len(ids))
