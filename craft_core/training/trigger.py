"""Captions made of a trigger word: the phrase that stands for what is learned, marked by its role.

`[trigger]` in a caption is where the phrase goes, as trainers write it; `{trigger}` is the same.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Mapping, Sequence

from ..errors import CraftError
from ..routing.markers import parse
from ..types import Role

PLACE = "[trigger]"
USUAL: Mapping[Role, str] = {"content": f"a photo of {PLACE}", "style": f"a picture in {PLACE}"}
"""The caption of pictures that have none."""
EFFORTS: Mapping[str, float] = {"quick": 0.3, "normal": 1.0, "long": 2.0}
"""Shares of the steps that a recipe takes where nothing is said."""
_LONGEST = 1 << 24  # characters of all captions of a picture slot
_PLACES = re.compile(r"\[trigger\]|\{trigger\}", re.I)
_MARKED: Mapping[Role, str] = {"content": "<c>{}</c>", "style": "<s>{}</s>"}
_CLASS: Mapping[Role, str] = {"content": "", "style": "style"}


def captions_with_trigger(
    captions: Sequence[str], trigger: str, class_word: str, role: Role
) -> list[str]:
    """The captions with trigger and class word as a marked phrase of the role: at each PLACE, or in
    front of a caption that neither has one nor marks a phrase of the role itself. A PLACE inside a
    phrase that the caption marks for the role gets them without markers.

    class_word: what it is, such as dog; "" for none, which for a style is "style". CraftError
    without a trigger, and for captions whose markers cannot be read.
    """
    if not trigger.strip():
        raise CraftError(
            f"The trigger of the {role} is empty",
            "What is learned gets a rare word of its own, such as sks",
            "Write a word that the model does not know",
        )
    words = f"{trigger.strip()} {class_word.strip() or _CLASS[role]}"
    phrase = parse(words).clean.strip()  # some write the markers, too
    written = [one.strip() or USUAL[role] for one in captions]
    most = max(len(_MARKED[role].format(phrase)), len(PLACE))
    places = sum(max(1, sum(1 for _ in _PLACES.finditer(one))) for one in written)
    length = sum(map(len, written)) + places * most
    if length > _LONGEST:
        raise CraftError(
            f"The captions with the trigger of the {role} have {length} characters",
            f"They have up to {_LONGEST} together",
            f"Shorten the trigger, or write {PLACE} less often",
        )
    return [_with(one, phrase, role) for one in written]


def _with(caption: str, phrase: str, role: Role) -> str:
    marked, own = _MARKED[role].format(phrase), getattr(parse(caption), role)

    starts = [one.start for one in own]

    def put(place: re.Match[str]) -> str:
        before = bisect_right(starts, place.start())  # phrases stand one behind another
        inside = before > 0 and place.end() <= own[before - 1].end
        return phrase if inside else marked

    found, count = _PLACES.subn(put, caption)
    return found if count or own else f"{marked}, {caption}"
