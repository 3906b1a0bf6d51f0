"""What living MODELs use: found again by the next MODEL, kept alive by none of this but for the
beginning of a run.

The host drops MODELs of the last run before the nodes of the next one run: with its default cache
after the first node that ends, with --cache-classic before any. A node's fingerprint is asked for
before both. From then until something samples, what lives stays, so that an edited Router finds
what its MODEL of the last run had.

What stays is as small as LoRA files. A network, or what holds one (a MODEL, a CLIP), may not: the
next run may load another, and the host would have to find room for both.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any, TypeVar
from weakref import WeakValueDictionary

_Key = TypeVar("_Key")
_Value = TypeVar("_Value")
_all: list[WeakValueDictionary] = []
_staying: list[Any] = []


def in_use() -> WeakValueDictionary[tuple, Any]:
    """A dictionary of what living MODELs use; what is in it may stay for the beginning of a run,
    so it holds no network."""
    _all.append(WeakValueDictionary())
    return _all[-1]


def let_stay() -> None:
    """From a fingerprint: a run begins. What stayed for the last one stays no longer by itself."""
    _staying[:] = [one for some in _all for one in list(some.values())]


def let_go() -> None:
    """A run samples, or nothing runs: what no MODEL uses may go."""
    _staying.clear()


def keep_latest(
    known: OrderedDict[_Key, _Value], key: _Key, make: Callable[[], _Value], most: int
) -> _Value:
    """That of the key, made where there is none; those longest not asked for make room."""
    if key not in known:
        known[key] = make()
    known.move_to_end(key)
    while len(known) > most:
        known.popitem(last=False)
    return known[key]
