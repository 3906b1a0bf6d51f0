"""The words that a LoRA was trained with, as far as its file says them.

modelspec.trigger_phrase (ModelSpec 1.0.1) states them. Trainers after kohya's sd-scripts count the
tags of their captions in ss_tag_frequency instead: a tag in every caption is one of them.
ai-toolkit writes its trigger word as a folder's only tag.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..json_text import shallow_json
from ..types import Role
from .markers import MarkedPrompt

_PHRASE = "modelspec.trigger_phrase"
_TAGS = "ss_tag_frequency"
_FOLDERS = "ss_dataset_dirs"
_MOST = 8  # words of a file
_LONGEST = 80  # letters; a longer one is a caption


def trigger_words(metadata: Mapping[str, str]) -> tuple[str, ...]:
    """In the file's order, each once; none where it does not say, or not in a known way."""
    stated = [word.strip() for word in metadata.get(_PHRASE, "").split(",")]
    words = [word for word in stated if word] or _in_every_caption(metadata)
    return tuple(dict.fromkeys(word for word in words if len(word) <= _LONGEST))[:_MOST]


def common_phrases(captions: Sequence[MarkedPrompt], role: Role) -> tuple[str, ...]:
    """What every caption marks for a role, in the first one's order."""
    each = [[" ".join(one.text.split()) for one in getattr(caption, role)] for caption in captions]
    first, *others = each or [[]]
    common = set(first).intersection(*others)
    return tuple(dict.fromkeys(one for one in first if one and one in common))


def stated(words: Iterable[str]) -> dict[str, str]:
    """The metadata that states trigger words, as `trigger_words` reads it; empty for none.

    Words that it could not read back are left out: with a comma, or as long as a caption.
    """
    kept = [one for one in dict.fromkeys(words) if "," not in one and len(one) <= _LONGEST]
    return {_PHRASE: ", ".join(kept[:_MOST])} if kept else {}


def _in_every_caption(metadata: Mapping[str, str]) -> list[str]:
    """Tags that each picture of a folder has."""
    folders, found = _table(metadata, _FOLDERS), []
    for folder, counts in _table(metadata, _TAGS).items():
        if not isinstance(counts, Mapping):
            continue
        numbers = {str(tag).strip(): count for tag, count in counts.items() if _is_count(count)}
        own = folders.get(folder)
        pictures = own.get("img_count") if isinstance(own, Mapping) else None
        if _is_count(pictures):
            found += [tag for tag, count in numbers.items() if tag and count >= pictures]
        elif len(numbers) == 1:
            found += [tag for tag in numbers if tag]
    return found


def _table(metadata: Mapping[str, str], key: str) -> Mapping[str, Any]:
    """A JSON object in the metadata; empty where it is none."""
    try:
        read = shallow_json(metadata.get(key, "{}"))
    except ValueError:  # also nested too deeply
        return {}
    return read if isinstance(read, dict) else {}


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
