"""Send a LoRA to a server, in pieces of which each is a call: so it can also go by way of another
computer, piece by piece, which then sends it to the server beside itself."""

from __future__ import annotations

import http.client
import selectors
import time
import urllib.parse
import uuid
from contextlib import suppress
from typing import Any

from ..answers import NoJson, parse_json
from ..bodies import read_body
from ..client import query_text
from ..errors import RemoteError, ServerGone
from .announced import BODY, MADE, RECEIVE, RECEIVED, SEND, THERE, VARIABLE

PIECE = 1 << 22  # bytes; each is held a few times on its way
WAITS = 60.0  # seconds without an answer, or in which a piece must be taken
ENDS = 600.0  # seconds in which a server must have looked through the file, or at its own
FORGOTTEN = 600.0  # seconds after which what nobody goes on sending is given up
_MOST = 1 << 16  # bytes of an answer
_GATEWAYS = (502, 503, 504)


class _Upload:
    """A request whose body is sent bit by bit."""

    def __init__(self, url: str, name: str, sha256: str, size: int, length: int) -> None:
        place = urllib.parse.urlsplit(url)
        secure = place.scheme == "https"
        kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
        query = query_text({"name": name, "sha256": sha256, "bytes": size})
        self._url, self._secure, self.touched = url, secure, time.monotonic()
        self._told = ""  # what the server answered before it had the whole body
        self._connection = kind(place.hostname or "", place.port, timeout=WAITS)
        try:
            self._connection.putrequest("POST", f"{place.path}{RECEIVE}?{query}")
            self._connection.putheader("Content-Type", BODY)
            self._connection.putheader("Content-Length", str(length))
            self._connection.endheaders()
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise self._gone(error) from error

    def send(self, content: bytes) -> None:
        self.touched = time.monotonic()
        if not self._told and self._has_answered():
            self._told = self.answer(WAITS)
        if self._told:
            return
        try:
            self._connection.send(content)
        except (OSError, http.client.HTTPException) as error:
            with suppress(ServerGone):  # it may have said why it takes no more
                self._told = self.answer(WAITS)
            if not self._told:
                raise self._gone(error) from error

    def answer(self, seconds: float = ENDS) -> str:
        """What the server answers; RemoteError, also where it has no such route."""
        if self._told:
            return self._told
        try:
            if self._connection.sock is not None:
                self._connection.sock.settimeout(seconds)
            answer = self._connection.getresponse()
            text = read_body(answer, _MOST)
        except (OSError, http.client.HTTPException) as error:
            raise self._gone(error) from error
        if answer.status in _GATEWAYS:
            raise self._gone(f"{answer.status} {answer.reason}")
        if answer.status in (404, 405):
            raise RemoteError(
                f"{self._url} has no CRAFT LoRA that takes LoRAs. Install or update it there, and "
                f"start that ComfyUI with {VARIABLE}=2GB in its environment."
            )
        return _state(text, f"{answer.status} {answer.reason}")

    def _has_answered(self) -> bool:
        """Whether an answer, or the end, came before the whole body went: no more is taken."""
        if self._connection.sock is None or self._secure:  # under TLS other things come, too
            return False
        with selectors.DefaultSelector() as selector:
            selector.register(self._connection.sock, selectors.EVENT_READ)
            return bool(selector.select(0))

    def close(self) -> None:
        self._connection.close()

    def _gone(self, error: object) -> ServerGone:
        return ServerGone(f"the connection to {self._url} broke ({error}).")


def _state(text: bytes, status: str) -> str:
    try:
        told: Any = parse_json(text)
    except NoJson:
        told = None
    told = told if isinstance(told, dict) else {}
    if isinstance(told.get("error"), str):
        raise RemoteError(told["error"])
    if told.get("state") not in (THERE, MADE, SEND, RECEIVED):
        raise RemoteError(f"the server answered a LoRA with {status}, and no word that is known.")
    return told["state"]


_uploads: dict[str, _Upload] = {}  # those that have begun


def offer(url: str, name: str, sha256: str, size: int) -> str:
    """THERE or MADE where the server has the file under its name from now on, else SEND."""
    upload = _Upload(url, name, sha256, size, 0)
    try:
        return upload.answer()
    finally:
        upload.close()


def begin_upload(url: str, name: str, sha256: str, size: int) -> str:
    """A token for what is to come."""
    for token, one in list(_uploads.items()):
        if time.monotonic() - one.touched > FORGOTTEN:
            drop_upload(url, token)
    token = uuid.uuid4().hex
    _uploads[token] = _Upload(url, name, sha256, size, size)
    return token


def send_piece(url: str, token: str, content: bytes) -> None:
    _begun(url, token).send(content)


def end_upload(url: str, token: str) -> str:
    """RECEIVED, or THERE where the same content has come in another way meanwhile."""
    try:
        return _begun(url, token).answer()
    finally:
        drop_upload(url, token)


def drop_upload(url: str, token: str) -> None:
    """Give it up; the server keeps nothing of it."""
    upload = _uploads.pop(token, None)
    if upload is not None:
        upload.close()


def _begun(url: str, token: str) -> _Upload:
    if token not in _uploads:  # another command renewed the code beside the server
        raise ServerGone(f"what sends to {url} was started again.")
    return _uploads[token]
