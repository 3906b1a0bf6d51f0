"""The one error a user's mistake raises."""

from __future__ import annotations


class CraftError(ValueError):
    """A user's mistake, told in three parts.

    given: what was given.  possible: what is possible.  action: what to do.
    """

    def __init__(self, given: str, possible: str, action: str) -> None:
        super().__init__(f"{_sentence(given)} {_sentence(possible)} {_sentence(action)}")
        self.given, self.possible, self.action = given, possible, action


def _sentence(text: str) -> str:
    text = text.strip()
    return text if text.endswith((".", "!", "?")) else text + "."
