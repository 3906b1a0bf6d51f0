"""The one error a user's mistake raises, and how names are listed in its messages."""

from __future__ import annotations

from collections.abc import Iterable


class CraftError(ValueError):
    """A user's mistake, explained in three parts.

    given: what was given.  possible: what is possible.  action: what to do.
    """

    def __init__(self, given: str, possible: str, action: str) -> None:
        super().__init__(f"{_sentence(given)} {_sentence(possible)} {_sentence(action)}")
        self.given, self.possible, self.action = given, possible, action


def _sentence(text: str) -> str:
    text = text.strip()
    return text if text.endswith((".", "!", "?")) else text + "."


def listed(names: Iterable[str], most: int = 8) -> str:
    """ "a, b, c and 4 more": the first `most` names and how many others there are; "none"."""
    given = list(names)
    rest = len(given) - most
    return (", ".join(given[:most]) or "none") + (f" and {rest} more" if rest > 0 else "")
