"""SHA-256 of model files, which the server's pack tells: asked aside, and nobody waits for them."""

from __future__ import annotations

import threading
from collections.abc import Iterable

from ...client.client import Client
from ...client.errors import RemoteError
from ...client.facts import hash_told


class Hashes:
    """known: file -> SHA-256, of those that the server has told by now."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._asked: set[str] = set()
        self.known: dict[str, str] = {}

    def ask(self, files: Iterable[str]) -> None:
        """Begin to ask for those that were not asked for yet. The server reads each once."""
        new = [file for file in dict.fromkeys(files) if file not in self._asked]
        self._asked.update(new)
        if new:
            threading.Thread(target=self._learn, args=(new,), daemon=True).start()

    def _learn(self, files: list[str]) -> None:
        for file in files:
            try:
                told = hash_told(self._client, file)
            except RemoteError:  # the jobs say what became of the server
                return
            if told:
                self.known[file] = told
