"""A prompt, or a phrase of it, as a CLIP encodes it, kept while that CLIP is in use.

A grid and a search route a MODEL anew for each of their settings, mostly with one text. Encoding it
each time would load the text encoder each time, which on a small card pushes the model out.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

_KEPT = 2  # texts of a CLIP; of phrases, two for each
_READ_ANEW = "embedding:"  # names a file, which may be another the next time
_Known = WeakKeyDictionary[Any, OrderedDict[tuple, Any]]
_conditionings: _Known = WeakKeyDictionary()
_descriptions: _Known = WeakKeyDictionary()


def encoded(clip: Any, text: str) -> list:
    """The CONDITIONING of a text, as the host's CLIP Text Encode gives it."""
    found = _once(_conditionings, _KEPT, clip, text, _encode)
    return [[tensor, dict(beside), *more] for tensor, beside, *more in found]


def described(clip: Any, text: str, make: Callable[[Any, str], Any]) -> Any:
    """What `make` gives of a CLIP and a phrase, which nobody may change."""
    return _once(_descriptions, 2 * _KEPT, clip, text, make)


def _once(known: _Known, most: int, clip: Any, text: str, make: Callable[[Any, str], Any]) -> Any:
    try:
        of_clip, key = known.setdefault(clip, OrderedDict()), _key(clip, text)
    except (AttributeError, TypeError):  # another pack's, which cannot be told apart or held
        return make(clip, text)
    if _READ_ANEW in text:
        return make(clip, text)
    if key not in of_clip:
        of_clip[key] = make(clip, text)
    of_clip.move_to_end(key)
    while len(of_clip) > most:
        of_clip.popitem(last=False)
    return of_clip[key]


def _encode(clip: Any, text: str) -> list:
    return clip.encode_from_tokens_scheduled(clip.tokenize(text))


def _key(clip: Any, text: str) -> tuple:
    """Of all that the host encodes by. Its nodes make a CLIP anew for each of these; others may
    set them in place."""
    hooks = (clip.apply_hooks_to_conds, clip.patcher.forced_hooks, clip.use_clip_schedule)
    options = repr(sorted(clip.tokenizer_options.items()))
    return (text, clip.patcher.patches_uuid, clip.layer_idx, options, *map(id, hooks))
