"""What a server sends is taken in up to a size, whole, and only if it is what was asked for."""

import socket
import threading

import pytest
from craft_lora_pack.client import bodies, client
from craft_lora_pack.client.client import Client
from craft_lora_pack.client.errors import RemoteError, ServerGone
from fake_comfyui import picture

PNG = picture(3)


class Answering:
    """A server that answers every request with the same bytes, and then closes."""

    def __init__(self, answer: bytes) -> None:
        self._answer = answer
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._serve, daemon=True)

    @property
    def client(self) -> Client:
        return Client(f"http://127.0.0.1:{self._listener.getsockname()[1]}")

    def _serve(self) -> None:
        connection, _ = self._listener.accept()
        with connection:
            connection.recv(65536)
            try:
                connection.sendall(self._answer)
            except ConnectionError:
                pass  # the client has read enough

    def __enter__(self) -> "Answering":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()
        self._thread.join(10)


def answer(body: bytes, kind: str = "image/png", length: int | None = None) -> bytes:
    announced = "" if length == -1 else f"Content-Length: {len(body) if length is None else length}"
    lines = ["HTTP/1.1 200 OK", f"Content-Type: {kind}", announced, "Connection: close"]
    return ("\r\n".join(filter(None, lines)) + "\r\n\r\n").encode() + body


def fetched(content: bytes, name: str = "a.png") -> bytes:
    with Answering(content) as server:
        return server.client.fetch({"filename": name, "subfolder": "", "type": "output"})


@pytest.mark.parametrize("kind", ["image/png", "application/octet-stream"])
def test_a_picture_arrives_as_it_is(kind):
    assert fetched(answer(PNG, kind)) == PNG == fetched(answer(PNG, kind, length=-1))


def test_a_web_page_is_not_saved_as_a_picture_or_a_video():
    page = b"<!doctype html><title>Sign in</title>"
    for name in ("a.png", "a.mp4", "a", "a.json"):
        with pytest.raises(RemoteError, match=f"a web page in place of {name}"):
            fetched(answer(page, "text/html; charset=utf-8"), name)
    with pytest.raises(RemoteError, match="is no png file"):
        fetched(answer(page, "image/png"))
    with pytest.raises(RemoteError, match="nothing in place of"):
        fetched(answer(b""))
    assert fetched(answer(page, "text/html"), "report.html") == page


@pytest.mark.parametrize("length", [None, -1])
def test_a_body_larger_than_is_taken_is_an_error(length, monkeypatch):
    monkeypatch.setattr(bodies, "MOST_FILE", 1000)
    monkeypatch.setattr(bodies.read_body, "__defaults__", (1000,))
    monkeypatch.setattr(client, "MOST_JSON", 1000)
    with pytest.raises(RemoteError, match="at most 1000"):
        fetched(answer(PNG + b"x" * 2000, length=length))
    large = answer(b"[" + b"1," * 1000 + b"1]", "application/json", length)
    with Answering(large) as server, pytest.raises(RemoteError, match="at most 1000"):
        server.client.object_info()


def test_a_length_of_many_gigabytes_is_refused_before_anything_is_read():
    with pytest.raises(RemoteError, match="99999999999999 bytes"):
        fetched(answer(PNG, length=99_999_999_999_999))


def test_a_body_that_ends_early_is_no_file(monkeypatch):
    monkeypatch.setattr(client, "PATIENCE", 0.0)
    with pytest.raises(ServerGone, match="connection"):
        fetched(answer(PNG, length=len(PNG) + 1))


HEADS = {
    "a long length": f"200 OK\r\nContent-Length: {'9' * 5000}",
    "a redirect to no address": "302 Found\r\nLocation: http://[",
    "a redirect to no name": f"302 Found\r\nLocation: http://{'a' * 70}.x/",
    "a redirect to another kind": "302 Found\r\nLocation: file:///etc/hosts",
}


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("ask", [Client.object_info, lambda one: one.fetch({"filename": "a.png"})])
def test_any_head_is_read_or_told_in_words(head, ask):
    with Answering(f"HTTP/1.1 {HEADS[head]}\r\n\r\n{{}}".encode()) as server:
        with pytest.raises(RemoteError):
            ask(server.client)


@pytest.mark.parametrize("body", [b"<html>", b"\xff\xfe", b"[" * 200_000, b""])
def test_what_is_no_json_is_no_comfyui_server(body):
    with Answering(answer(body, "text/html")) as server:
        with pytest.raises(ServerGone, match="is not a ComfyUI server"):
            server.client.object_info()
