"""A prompt, or a phrase of it, as a CLIP encodes it, kept while that CLIP is in use.

A grid and a search route a MODEL anew for each of their settings, mostly with one text. Encoding it
each time would load the text encoder each time, which on a small card pushes the model out.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

from ..living import keep_latest

_KEPT = 2  # texts of a CLIP with certain patches; of phrases, two for each
_PATCHED = 4  # ways in which it is patched
_READ_ANEW = "embedding:"  # names a file, which may be another the next time
_Known = WeakKeyDictionary[Any, OrderedDict[tuple, OrderedDict[str, Any]]]
_conditionings: _Known = WeakKeyDictionary()
_descriptions: _Known = WeakKeyDictionary()


def encoded(clip: Any, text: str, given: Any = None) -> list:
    """The CONDITIONING of a text, as the host's CLIP Text Encode gives it.

    given: the CLIP that lives from run to run, where `clip` is a patched clone that does not.
    """
    found = _once(_conditionings, _KEPT, clip, text, _encode, clip if given is None else given)
    return [[tensor, dict(beside), *more] for tensor, beside, *more in found]


def described(clip: Any, text: str, make: Callable[[Any, str], Any]) -> Any:
    """What `make` gives of a CLIP and a phrase, which nobody may change."""
    return _once(_descriptions, 2 * _KEPT, clip, text, make, clip)


def _once(
    known: _Known, most: int, clip: Any, text: str, make: Callable[[Any, str], Any], given: Any
) -> Any:
    try:
        of_given, key = known.setdefault(given, OrderedDict()), _key(clip, given)
    except (AttributeError, TypeError):  # another pack's, which cannot be told apart or held
        return make(clip, text)
    if _READ_ANEW in text:
        return make(clip, text)
    texts = keep_latest(of_given, key, OrderedDict, _PATCHED)
    return keep_latest(texts, text, lambda: make(clip, text), most)


def _encode(clip: Any, text: str) -> list:
    return clip.encode_from_tokens_scheduled(clip.tokenize(text))


def _key(clip: Any, given: Any) -> tuple:
    """Of all that the host encodes by. Its nodes make a CLIP anew for each of these; others may
    set them in place. What a clone copies is the given CLIP's, which lives on."""
    hooks = (given.apply_hooks_to_conds, given.patcher.forced_hooks, given.use_clip_schedule)
    options = repr(sorted(given.tokenizer_options.items()))
    return (clip.patcher.patches_uuid, given.layer_idx, options, *map(id, hooks))
