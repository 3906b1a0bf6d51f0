"""JSON that people or files give, no deeper than what is done with it afterwards can bear.

Python's reader takes about a thousand levels; what walks over the value then, or writes it into a
message, would meet the limit of Python's calls at some depth below that.
"""

from __future__ import annotations

import json
from typing import Any

MOST_LEVELS = 100  # lists and tables inside one another


class TooDeep(ValueError):
    """It has more levels than are read."""

    def __init__(self) -> None:
        super().__init__("it is nested too deeply")


def shallow_json(text: str | bytes) -> Any:
    """The value of a JSON text; ValueError where it is none, and TooDeep."""
    try:
        value = json.loads(text)
    except RecursionError as error:
        raise TooDeep from error
    require_shallow(value)
    return value


def require_shallow(value: Any) -> None:
    """TooDeep for lists and tables in more than MOST_LEVELS levels; no call for a level."""
    level = [value]
    for _ in range(MOST_LEVELS + 1):
        level = [one for one in level if isinstance(one, dict | list)]
        if not level:
            return
        level = [inner for one in level for inner in _inside(one)]
    raise TooDeep


def _inside(one: dict | list) -> Any:
    return one.values() if isinstance(one, dict) else one
