"""The events of a server for one client, over a connection that is made again where it is cut."""

from __future__ import annotations

import time
from collections.abc import Callable

from .websocket import WebSocket

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0  # seconds before a connection is tried again


class Events:
    """Receives text messages. While there is no connection none come, and nothing is raised: who
    listens asks the server's history meanwhile."""

    def __init__(self, connect: Callable[[], WebSocket]) -> None:
        self._connect = connect
        self._socket: WebSocket | None = None
        self._pause, self._next = FIRST_PAUSE, 0.0
        self._open()

    def __enter__(self) -> Events:
        return self

    def __exit__(self, *_: object) -> None:
        if self._socket is not None:
            self._socket.close()

    def receive(self, timeout: float) -> str | None:
        """The next text message, or None when none came in time."""
        if self._socket is None:
            wait = self._next - time.monotonic()
            if wait > 0:
                time.sleep(min(wait, timeout))
                return None
            self._open()
        if self._socket is None:
            return None
        try:
            message = self._socket.receive(timeout)
        except OSError:
            self._socket.close()
            self._socket = None
            self._wait()
            return None
        if message is not None:
            self._pause = FIRST_PAUSE
        return message

    def _open(self) -> None:
        try:
            self._socket = self._connect()
        except OSError:
            self._wait()

    def _wait(self) -> None:
        self._next = time.monotonic() + self._pause
        self._pause = min(2 * self._pause, LONGEST_PAUSE)
