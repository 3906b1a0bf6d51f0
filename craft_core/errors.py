"""The one error a user's mistake raises, and how names are listed in its messages."""

from __future__ import annotations

import re
from collections.abc import Iterable
from traceback import format_exception_only

MOST = 2000  # characters of a message
_MOST_OF_PARTS = (1200, 500, 280)
# Control characters but tab and line end, marks that turn the direction of a text, half characters.
_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)


class CraftError(ValueError):
    """A user's mistake, explained in three parts.

    given: what was given.  possible: what is possible.  action: what to do. The message is plain,
    and has at most MOST characters.
    """

    def __init__(self, given: str, possible: str, action: str) -> None:
        parts = zip((given, possible, action), _MOST_OF_PARTS, strict=True)
        given, possible, action = (plain(part, most) for part, most in parts)
        super().__init__(f"{_sentence(given)} {_sentence(possible)} {_sentence(action)}")
        self.given, self.possible, self.action = given, possible, action


_NO_MEMORY = ("can't allocate memory", "not enough memory", "out of memory")  # as torch says it


def lacks_memory(error: BaseException) -> bool:
    """Whether memory ran out, which torch says in a RuntimeError."""
    if not isinstance(error, RuntimeError):
        return isinstance(error, MemoryError)
    said = "".join(format_exception_only(error))
    return any(words in said for words in _NO_MEMORY)


# What breaks where bytes or texts of others are read, or a file is written. Anything else is a
# fault of the program, and is seen as one.
BREAKS = (OSError, MemoryError, RecursionError, OverflowError, UnicodeError, re.error)


def told(error: Exception) -> CraftError:
    """One of BREAKS, or what lacks_memory, in three parts, for the outermost of a program, a route
    or a command."""
    if isinstance(error, OSError):
        what = f"{error.filename} cannot be" if error.filename else "A file or connection cannot be"
        return CraftError(
            f"{what} read or written ({error.strerror or error})",
            "Files are read from where they are, and written into folders with room and permission",
            "Check the path, the folder's permissions and the disk",
        )
    if lacks_memory(error):
        return CraftError(
            f"There is not enough memory{f' ({error})' if str(error) else ''}",
            "What is read and made at once must fit into this computer's memory",
            "Give fewer or smaller files or pictures, or close other programs",
        )
    reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
    return CraftError(
        f"Something that was given cannot be read: {reason}",
        "Files and texts are read as the programs write them that they are from",
        "Leave out or replace the file or text that was added last",
    )


def _sentence(text: str) -> str:
    text = text.strip()
    return text if text.endswith((".", "!", "?")) else text + "."


def plain(text: str, most: int = MOST) -> str:
    """A text by others as terminals and pages may show it: nothing in it acts on them, and of a
    long one the beginning is left."""
    shown = _UNSEEN.sub("\ufffd", text[: most + 1])
    return shown if len(text) <= most else f"{shown[: most - 3]}..."


def listed(names: Iterable[str], most: int = 8) -> str:
    """ "a, b, c and 4 more": the first `most` names and how many others there are; "none"."""
    given = list(names)
    rest = len(given) - most
    return (", ".join(given[:most]) or "none") + (f" and {rest} more" if rest > 0 else "")
