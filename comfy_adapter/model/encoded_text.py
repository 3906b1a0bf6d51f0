"""A prompt as a CLIP encodes it, kept while that CLIP is in use.

A grid and a search route a MODEL anew for each of their settings, mostly with one text. Encoding it
each time would load the text encoder each time, which on a small card pushes the model out.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any
from weakref import WeakKeyDictionary

_KEPT = 2  # texts of a CLIP
_known: WeakKeyDictionary[Any, OrderedDict[tuple, list]] = WeakKeyDictionary()


def encoded(clip: Any, text: str) -> list:
    """The CONDITIONING of a text, as the host's CLIP Text Encode gives it."""
    of_clip = _known.setdefault(clip, OrderedDict())
    key = (text, clip.patcher.patches_uuid, clip.layer_idx)
    if key not in of_clip:
        of_clip[key] = clip.encode_from_tokens_scheduled(clip.tokenize(text))
    of_clip.move_to_end(key)
    while len(of_clip) > _KEPT:
        of_clip.popitem(last=False)
    return [[tensor, dict(beside)] for tensor, beside in of_clip[key]]
