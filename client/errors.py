"""Errors of a ComfyUI server, in the server's own words."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ..craft_core.errors import CraftError, plain

# What breaks where an answer is not as it was foreseen.
_UNFORESEEN = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)


class RemoteError(Exception):
    """A prompt was refused, failed or interrupted; the text is one clear sentence, and plain."""

    def __init__(self, message: str) -> None:
        super().__init__(plain(message))


class ServerGone(RemoteError):
    """The server does not answer, or stopped answering; nothing else can be asked of it."""


class Forgotten(RemoteError):
    """The server no longer knows a prompt that it had taken, as after a restart."""

    def __init__(self) -> None:
        super().__init__("the server was restarted, and no longer knows the job.")


@contextmanager
def in_words() -> Iterator[None]:
    """Whatever an answer that nobody foresaw makes the block raise is a RemoteError. An error that
    is in words already stays as it is, and so does one of files, connections or memory."""
    try:
        yield
    except (CraftError, OSError):  # some errors of a connection are a ValueError, too
        raise
    except _UNFORESEEN as error:
        raise RemoteError(
            f"the server's answer cannot be used ({type(error).__name__}: {error})."
        ) from error
