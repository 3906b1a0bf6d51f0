"""A prompt as a CLIP encodes it, kept while that CLIP is in use.

A grid and a search route a MODEL anew for each of their settings, mostly with one text. Encoding it
each time would load the text encoder each time, which on a small card pushes the model out.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any
from weakref import WeakKeyDictionary

_KEPT = 2  # texts of a CLIP
_READ_ANEW = "embedding:"  # names a file, which may be another the next time
_known: WeakKeyDictionary[Any, OrderedDict[tuple, list]] = WeakKeyDictionary()


def encoded(clip: Any, text: str) -> list:
    """The CONDITIONING of a text, as the host's CLIP Text Encode gives it."""
    try:
        of_clip, key = _known.setdefault(clip, OrderedDict()), _key(clip, text)
    except (AttributeError, TypeError):  # another pack's, which cannot be told apart or held
        return _encode(clip, text)
    if _READ_ANEW in text:
        return _encode(clip, text)
    if key not in of_clip:
        of_clip[key] = _encode(clip, text)
    of_clip.move_to_end(key)
    while len(of_clip) > _KEPT:
        of_clip.popitem(last=False)
    return [[tensor, dict(beside), *more] for tensor, beside, *more in of_clip[key]]


def _encode(clip: Any, text: str) -> list:
    return clip.encode_from_tokens_scheduled(clip.tokenize(text))


def _key(clip: Any, text: str) -> tuple:
    """Of all that the host encodes by. Its nodes make a CLIP anew for each of these; others may
    set them in place."""
    hooks = (clip.apply_hooks_to_conds, clip.patcher.forced_hooks, clip.use_clip_schedule)
    options = repr(sorted(clip.tokenizer_options.items()))
    return (text, clip.patcher.patches_uuid, clip.layer_idx, options, *map(id, hooks))
