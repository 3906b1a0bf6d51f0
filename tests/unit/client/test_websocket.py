"""The WebSocket client against a server that sends what RFC 6455 allows, cut as a network cuts."""

import base64
import hashlib
import socket
import struct
import threading
from collections.abc import Callable

import pytest
from craft_lora_pack.client import websocket
from craft_lora_pack.client.websocket import (
    BINARY,
    CLOSE,
    GUID,
    PING,
    PONG,
    TEXT,
    WebSocket,
    WebSocketClosed,
)

CONTINUED = 0


def frame(payload: bytes, kind: int = TEXT, final: bool = True) -> bytes:
    size = len(payload)
    if size < 126:
        length = bytes([size])
    elif size < 65536:
        length = b"\x7e" + struct.pack(">H", size)
    else:
        length = b"\x7f" + struct.pack(">Q", size)
    return bytes([(0x80 if final else 0) | kind]) + length + payload


class Peer:
    """One connection's server side: accepts, shakes hands, then runs `talk(connection)`."""

    def __init__(self, talk: Callable[[socket.socket], None], accept: bool = True):
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._talk, self._accept = talk, accept
        self.request = b""
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        connection, _ = self._listener.accept()
        with connection:
            while b"\r\n\r\n" not in self.request:
                self.request += connection.recv(4096)
            key = self.request.partition(b"Sec-WebSocket-Key: ")[2].partition(b"\r\n")[0]
            proof = base64.b64encode(hashlib.sha1(key + GUID.encode()).digest())
            status = b"101 Switching Protocols" if self._accept else b"404 Not Found"
            lines = [b"HTTP/1.1 " + status, b"sec-websocket-accept: " + proof]
            connection.sendall(b"\r\n".join(lines) + b"\r\n\r\n")
            self._talk(connection)

    def __enter__(self) -> "Peer":
        return self

    def __exit__(self, *_exception) -> None:
        self._thread.join(10)
        self._listener.close()


def receive_all(stream: bytes, count: int) -> list[str | None]:
    def talk(connection: socket.socket) -> None:
        connection.sendall(stream)
        connection.recv(64)

    with Peer(talk) as peer, WebSocket("127.0.0.1", peer.port, "/ws") as events:
        return [events.receive(10) for _ in range(count)]


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65535, 65536, 300_000])
def test_a_message_of_any_length_arrives_whole(size):
    text = "é" * (size // 2) + "x" * (size % 2)
    assert receive_all(frame(text.encode()), 1) == [text]


def test_previews_and_pings_are_passed_over():
    stream = frame(b"\x00" * 70_000, BINARY) + frame(b"hi", PING) + frame(b"", PONG) + frame(b"{}")
    assert receive_all(stream, 1) == ["{}"]


def test_a_message_in_pieces_is_one_message_even_with_a_ping_between():
    pieces = [frame(b"one ", TEXT, False), frame(b"", PING), frame(b"two", CONTINUED)]
    assert receive_all(b"".join(pieces) + frame(b"next"), 2) == ["one two", "next"]


def test_a_preview_in_pieces_is_not_taken_for_text():
    pieces = [frame(b"\xff\xd8", BINARY, False), frame(b"text?", CONTINUED), frame(b"text!")]
    assert receive_all(b"".join(pieces), 1) == ["text!"]


def test_a_message_cut_by_a_time_out_is_not_lost():
    stream, go = frame(b"first") + frame("zweite é".encode()), threading.Event()

    def talk(connection: socket.socket) -> None:
        connection.sendall(stream[:9])
        go.wait(10)
        connection.sendall(stream[9:])
        connection.recv(64)

    with Peer(talk) as peer, WebSocket("127.0.0.1", peer.port, "/ws") as events:
        assert events.receive(10) == "first"
        assert events.receive(0.05) is None
        go.set()
        assert events.receive(10) == "zweite é"


def test_a_ping_is_answered_with_its_own_payload_masked():
    answers = []

    def talk(connection: socket.socket) -> None:
        connection.sendall(frame(b"abc", PING) + frame(b"."))
        answers.append(connection.recv(64))

    with Peer(talk) as peer, WebSocket("127.0.0.1", peer.port, "/ws") as events:
        assert events.receive(10) == "."
    pong = answers[0]
    mask, masked = pong[2:6], pong[6:9]
    assert pong[0] == 0x80 | PONG and pong[1] == 0x80 | 3
    assert bytes(byte ^ mask[i] for i, byte in enumerate(masked)) == b"abc"


@pytest.mark.parametrize("farewell", [frame(b"\x03\xe8", CLOSE), b"", b"\x81", b"\x81\x85abcde"])
def test_the_end_of_the_connection_is_an_error_and_never_a_message(farewell):
    with (
        Peer(lambda connection: connection.sendall(farewell)) as peer,
        WebSocket("127.0.0.1", peer.port, "/ws") as events,
        pytest.raises(WebSocketClosed),
    ):
        events.receive(10)


@pytest.mark.parametrize(
    "stream",
    [
        b"\x81\x7f" + struct.pack(">Q", 1 << 62),
        b"\x82\x7f" + struct.pack(">Q", 1 << 40),
        frame(b"x" * 126, PING),
        frame(b"x" * 600, TEXT, False) + frame(b"x" * 600, CONTINUED, False),
    ],
    ids=["text", "preview", "ping", "pieces"],
)
def test_a_frame_or_message_larger_than_any_ends_the_connection(stream, monkeypatch):
    monkeypatch.setattr(websocket, "MOST_MESSAGE", 1000)
    with pytest.raises(WebSocketClosed, match="the server sent a"):
        receive_all(stream, 1)


@pytest.mark.parametrize("piece", [frame(b"hi", PING), frame(b"x" * 99, BINARY), b"\x81"],
                         ids=["pings", "previews", "a byte"])  # fmt: skip
def test_receiving_ends_in_time_whatever_keeps_coming(piece):
    stop = threading.Event()

    def talk(connection: socket.socket) -> None:
        connection.sendall(b"\x81\x7f" + struct.pack(">Q", 1000) if len(piece) == 1 else b"")
        while not stop.wait(0.001):
            connection.sendall(piece)

    with Peer(talk) as peer, WebSocket("127.0.0.1", peer.port, "/ws") as events:
        assert events.receive(0.2) is None
        stop.set()


def test_a_handshake_without_an_end_is_refused():
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(65536)
            try:
                while True:
                    connection.sendall(b"X-More: more\r\n" * 1000)
            except ConnectionError:
                pass  # the client has read enough

    threading.Thread(target=serve, daemon=True).start()
    with listener, pytest.raises(WebSocketClosed, match="has no end"):
        WebSocket("127.0.0.1", listener.getsockname()[1], "/ws")


def test_a_server_that_speaks_no_websocket_is_refused():
    with (
        Peer(lambda _: None, accept=False) as peer,
        pytest.raises(WebSocketClosed, match="404 Not Found"),
    ):
        WebSocket("127.0.0.1", peer.port, "/ws")


def test_the_request_names_path_host_and_version():
    with Peer(lambda _: None) as peer, WebSocket("127.0.0.1", peer.port, "/ws?clientId=7"):
        pass
    assert peer.request.startswith(b"GET /ws?clientId=7 HTTP/1.1\r\n")
    assert f"Host: 127.0.0.1:{peer.port}\r\n".encode() in peer.request
    assert b"Sec-WebSocket-Version: 13\r\n" in peer.request
