"""The receiving half of a WebSocket (RFC 6455) for one server."""

import base64
import hashlib
import os
import socket
import ssl
import struct
import time

GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
TEXT, BINARY, CLOSE, PING, PONG = 0x1, 0x2, 0x8, 0x9, 0xA
FINAL = 0x80
MOST_MESSAGE = 1 << 26  # bytes; events take thousands, previews some million
MOST_HEAD = 1 << 16  # bytes of the answer to the handshake
MOST_CONTROL = 125  # bytes of a ping, says the RFC


class WebSocketClosed(ConnectionError):
    """The other side has ended the connection, or broke the protocol."""


class WebSocket:
    """Receives text messages; binary ones (live previews) are read and dropped."""

    def __init__(
        self, host: str, port: int, path: str, *, secure: bool = False, timeout: float = 10.0
    ):
        self._socket = socket.create_connection((host, port), timeout)
        self._buffer = bytearray()
        self._text = bytearray()
        self._kind = 0
        self._end = time.monotonic() + timeout
        try:
            if secure:
                context = ssl.create_default_context()
                self._socket = context.wrap_socket(self._socket, server_hostname=host)
            name = f"[{host}]" if ":" in host else host
            self._shake_hands(f"{name}:{port}", path)
        except BaseException:  # also Ctrl-C: nobody else can close this socket
            self._socket.close()
            raise

    def __enter__(self) -> "WebSocket":
        return self

    def __exit__(self, *_exception) -> None:
        self.close()

    def close(self) -> None:
        """Send a closing frame where possible, and close the socket."""
        try:
            self._socket.settimeout(1.0)
            self._send(CLOSE, b"")
        except OSError:
            pass  # the other side has gone already
        self._socket.close()

    def receive(self, timeout: float) -> str | None:
        """The next text message, or None when none came in time; WebSocketClosed at the end."""
        self._end = time.monotonic() + timeout
        try:
            while True:
                message = self._step()
                if message is not None:
                    return message
        except TimeoutError:
            return None

    def _step(self) -> str | None:
        """Take one whole frame from the stream; a frame cut by a time-out stays in the buffer."""
        final, kind, payload = self._frame()
        if kind == CLOSE:
            raise WebSocketClosed("the server closed the connection")
        if kind == PING:
            self._send(PONG, payload)
            return None
        if kind == PONG:
            return None
        if kind != 0:  # 0 continues the message before
            self._kind, self._text = kind, bytearray()
        if self._kind != TEXT:
            return None
        self._text += payload
        if len(self._text) > MOST_MESSAGE:
            raise WebSocketClosed(f"the server sent a message of more than {MOST_MESSAGE} bytes")
        if not final:
            return None
        return self._text.decode("utf-8", errors="replace")

    def _frame(self) -> tuple[bool, int, bytes]:
        self._fill(2)
        first, second = self._buffer[0], self._buffer[1]
        header, length = 2, second & 0x7F
        if length == 126:
            self._fill(4)
            header, (length,) = 4, struct.unpack(">H", self._buffer[2:4])
        elif length == 127:
            self._fill(10)
            header, (length,) = 10, struct.unpack(">Q", self._buffer[2:10])
        if second & 0x80:
            raise WebSocketClosed("the server sent a masked frame")
        kind = first & 0x0F
        if length > (MOST_CONTROL if kind in (CLOSE, PING, PONG) else MOST_MESSAGE):
            raise WebSocketClosed(f"the server sent a frame of {length} bytes")
        self._fill(header + length)
        payload = bytes(self._buffer[header : header + length])
        del self._buffer[: header + length]
        return bool(first & FINAL), kind, payload

    def _fill(self, size: int) -> None:
        """Read until the buffer holds `size` bytes; TimeoutError where that takes too long."""
        while len(self._buffer) < size:
            left = self._end - time.monotonic()
            if left <= 0:
                raise TimeoutError
            self._socket.settimeout(left)
            chunk = self._socket.recv(65536)
            if not chunk:
                raise WebSocketClosed("the server ended the connection")
            self._buffer += chunk

    def _send(self, kind: int, payload: bytes) -> None:
        """Send a control frame (at most 125 bytes), masked as a client must."""
        mask = os.urandom(4)
        masked = bytes(byte ^ mask[i % 4] for i, byte in enumerate(payload))
        self._socket.sendall(bytes([FINAL | kind, 0x80 | len(payload)]) + mask + masked)

    def _shake_hands(self, authority: str, path: str) -> None:
        key = base64.b64encode(os.urandom(16)).decode()
        lines = [
            f"GET {path} HTTP/1.1",
            f"Host: {authority}",
            "Upgrade: websocket",
            "Connection: Upgrade",
            f"Sec-WebSocket-Key: {key}",
            "Sec-WebSocket-Version: 13",
        ]
        self._socket.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
        while b"\r\n\r\n" not in self._buffer:
            if len(self._buffer) > MOST_HEAD:
                raise WebSocketClosed("no WebSocket here: its answer has no end")
            self._fill(len(self._buffer) + 1)
        head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        expected = base64.b64encode(hashlib.sha1((key + GUID).encode()).digest())
        status, *fields = head.split(b"\r\n")
        accepted = any(
            name.strip().lower() == b"sec-websocket-accept" and value.strip() == expected
            for name, _, value in (field.partition(b":") for field in fields)
        )
        if b" 101 " not in status + b" " or not accepted:
            raise WebSocketClosed(f"no WebSocket here: {status.decode(errors='replace')}")
