"""Errors of a ComfyUI server, in the server's own words."""

from __future__ import annotations


class RemoteError(Exception):
    """A prompt was refused, failed or interrupted; the text is one clear sentence."""


class ServerGone(RemoteError):
    """The server does not answer, or stopped answering; nothing else can be asked of it."""
