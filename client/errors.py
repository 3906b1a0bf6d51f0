"""Errors of a ComfyUI server, in the server's own words."""

from __future__ import annotations

from ..craft_core.errors import plain


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
