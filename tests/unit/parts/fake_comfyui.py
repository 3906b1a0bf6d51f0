"""A ComfyUI server small enough to read: it answers over HTTP and a WebSocket what the real one
answers, and "runs" a prompt by counting its nodes. Its one picture shows the prompt's number."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from craft_lora_pack.client.loras.announced import RECEIVE
from craft_lora_pack.client.websocket import GUID
from PIL import Image, PngImagePlugin

METHODS = [
    {"key": "plain", "inputs": {}},
    {
        "key": "mixed",
        "inputs": {
            "required": {
                "alpha": ["FLOAT", {"default": 0.5}],
                "style": ["FLOAT", {"default": 0.0}],  # never what a bare `style` means
            }
        },
    },
]
LORAS = ["animals/dog.safetensors", "cat.safetensors", "ink.safetensors", "oil.safetensors"]
OBJECT_INFO: dict[str, Any] = {
    "Router": {
        "display_name": "Content/Style Router",
        "input": {
            "required": {
                "content_lora": ["COMBO", {"options": LORAS}],
                "style_lora": [LORAS],
                "content_strength": ["FLOAT", {"default": 1.0}],
                "method": ["COMFY_DYNAMICCOMBO_V3", {"options": METHODS}],
                "prompt": ["STRING", {"default": ""}],
            }
        },
    },
    "Sampler": {
        "input": {
            "required": {
                "model": ["MODEL"],
                "seed": ["INT", {"default": 0, "control_after_generate": True}],
                "preview": ["BOOLEAN", {"default": True}],
                "strength": ["FLOAT", {"default": 1.0}],
            }
        }
    },
    "Save": {"input": {"required": {"images": ["IMAGE"], "filename_prefix": ["STRING", {}]}}},
}
PROMPT: dict[str, Any] = {
    "1": {
        "class_type": "Router",
        "inputs": {
            "content_lora": LORAS[1],
            "style_lora": LORAS[2],
            "content_strength": 1.0,
            "method": "plain",
            "prompt": "a cat",
        },
    },
    "2": {
        "class_type": "Sampler",
        "inputs": {"model": ["1", 0], "seed": 7, "preview": True, "strength": 1.0},
        "_meta": {"title": "Main v1.5"},
    },
    "3": {"class_type": "Save", "inputs": {"images": ["2", 0], "filename_prefix": "x"}},
}
FAILING_SEED = 13
PARTLY_WRONG = "bad"  # the prefix of a prompt of which the server refuses a part


class FakeComfyUI:
    """`with FakeComfyUI() as server:` answers at `server.url`. While `going` is not set, what is
    queued waits; `ran` is the prompts in their order."""

    def __init__(self, port: int = 0) -> None:
        self.going = threading.Event()
        self.going.set()
        self.ran: list[dict[str, Any]] = []
        self.history: dict[str, Any] = {}
        self.waiting: list[str] = []
        self.cancelled: list[str] = []
        self.arrived = threading.Semaphore(0)
        self.said: dict[str, Callable[[bytes], bytes]] = {}  # by path, what becomes of an answer
        self.asked: list[str] = []  # the path of each GET that is answered in JSON
        self.refused: set[str] = set()  # those that are answered by 404
        self.listens = True  # whether it takes WebSockets
        self.bodies: list[dict[str, Any]] = []  # of each POST /prompt
        self._sockets: dict[str, Any] = {}
        self._http = ThreadingHTTPServer(("127.0.0.1", port), _handler_of(self))
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_port}"

    def __enter__(self) -> FakeComfyUI:
        threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.going.set()
        self._http.shutdown()
        self._http.server_close()
        for socket in self._sockets.values():
            socket.close()

    @property
    def queued(self) -> list[str]:
        """The ids of all prompts that were sent."""
        return [body["prompt_id"] for body in self.bodies]

    def cut(self) -> None:
        """Break every WebSocket, as a network does."""
        for socket in list(self._sockets.values()):
            with suppress(OSError):  # the client may have gone by itself
                socket.shutdown(2)
        self._sockets.clear()

    def stop(self) -> None:
        """What kill does to a server."""
        self._http.shutdown()
        self._http.server_close()
        self.cut()

    def forget(self) -> None:
        """What a restart does to a server."""
        self.history.clear()
        self.waiting.clear()

    def answer(self, path: str) -> Any:
        if path == "/object_info":
            return OBJECT_INFO
        if path == "/queue":
            return {"queue_running": [[0, one] for one in self.waiting], "queue_pending": []}
        prompt_id = path.removeprefix("/history/")
        return {prompt_id: self.history[prompt_id]} if prompt_id in self.history else {}

    def file(self, number: int) -> bytes:
        """GET /view: the picture of the prompt that ran as this one."""
        return picture(number)

    def tell_of(self, name: str) -> Any:
        """The pack's route about a model file; here is no pack."""
        return {}

    def receive(self, query: dict[str, str], headers: Any, body: Any) -> tuple[int, bytes]:
        """The pack's route that takes LoRAs; here is no pack."""
        return 405, b""

    def take(self, body: dict[str, Any]) -> tuple[int, Any]:
        """POST /prompt: refused with the node's errors, or queued."""
        self.bodies.append(body)
        value = body["prompt"]["1"]["inputs"]["style_lora"]
        if value not in LORAS:
            error = {"message": "Value not in list", "details": f"style_lora: {value!r}"}
            return 400, {"error": {}, "node_errors": {"1": {"errors": [error]}}}
        if body["prompt"]["3"]["inputs"]["filename_prefix"] == PARTLY_WRONG:
            self.waiting.append(body["prompt_id"])
            error = {"message": "Bad prefix", "details": ""}
            return 200, {"prompt_id": body["prompt_id"], "node_errors": {"3": {"errors": [error]}}}
        self.waiting.append(body["prompt_id"])
        threading.Thread(target=self._run, args=(body,), daemon=True).start()
        return 200, {"prompt_id": body["prompt_id"], "node_errors": {}}

    def _run(self, body: dict[str, Any]) -> None:
        prompt, prompt_id = body["prompt"], body["prompt_id"]
        self.arrived.release()
        self.going.wait(300)
        if prompt_id not in self.waiting:
            return
        self.ran.append(prompt)
        for node in prompt:
            self._send(body, "executing", {"node": node})
            self._send(body, "progress", {"node": node, "value": 1, "max": 2})
        if prompt["2"]["inputs"]["seed"] == FAILING_SEED:
            failure = {"node_id": "2", "node_type": "Sampler", "exception_message": "unlucky"}
            status = {"status_str": "error", "messages": [["execution_error", failure]]}
            ending, outputs = "execution_error", {}
        else:
            status, ending = {"status_str": "success"}, "execution_success"
            outputs = self.outputs(prompt)
        self.history[prompt_id] = {"status": status, "outputs": outputs}
        self.waiting.remove(prompt_id)
        self._send(body, ending, {})

    def outputs(self, prompt: dict[str, Any]) -> dict[str, Any]:
        """What the last prompt gave, by node."""
        image = {"filename": f"x_{len(self.ran)}.png", "subfolder": "", "type": "output"}
        return {"3": {"images": [image], "text": ["said"]}}

    def _send(self, body: dict[str, Any], kind: str, data: dict[str, Any]) -> None:
        socket = self._sockets.get(body["client_id"])
        event = {"type": kind, "data": {**data, "prompt_id": body["prompt_id"]}}
        payload = json.dumps(event).encode()
        try:
            if socket is not None:
                socket.sendall(b"\x81" + b"\x7e" + struct.pack(">H", len(payload)) + payload)
        except OSError:
            pass  # the client has closed the connection

    def listen(self, client_id: str, socket: Any) -> None:
        self._sockets[client_id] = socket

    def cancel(self, prompt_id: str) -> None:
        self.cancelled.append(prompt_id)
        if prompt_id in self.waiting:
            self.waiting.remove(prompt_id)


def picture(number: int) -> bytes:
    """A PNG with a text of its own, as the host's Save Image writes it."""
    info, file = PngImagePlugin.PngInfo(), io.BytesIO()
    info.add_text("prompt", json.dumps({"number": number}))
    Image.new("RGB", (4, 4), (number, 0, 0)).save(file, "PNG", pnginfo=info)
    return file.getvalue()


def _handler_of(server: FakeComfyUI) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            place = urlsplit(self.path)
            query = {name: values[0] for name, values in parse_qs(place.query).items()}
            if place.path == "/ws":
                if server.listens:
                    self._upgrade(query["clientId"])
                else:
                    self._reply(404, b"")
            elif place.path == "/view":
                self._reply(200, server.file(int(re.findall(r"\d+", query["filename"])[-1])))
            elif place.path == "/craft_lora/files":
                self._reply(200, json.dumps(server.tell_of(query.get("name", ""))).encode())
            else:
                server.asked.append(place.path)
                status = 404 if place.path in server.refused else 200
                self._reply(status, json.dumps(server.answer(place.path)).encode())

        def do_POST(self) -> None:
            place = urlsplit(self.path)
            if place.path == RECEIVE:
                query = {name: values[0] for name, values in parse_qs(place.query).items()}
                self._reply(*server.receive(query, self.headers, self.rfile))
                return
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if self.path == "/prompt":
                status, answer = server.take(body)
                self._reply(status, json.dumps(answer).encode())
                return
            if self.path == "/interrupt":
                server.cancel(body["prompt_id"])
            self._reply(200, b"")

        def _reply(self, status: int, content: bytes) -> None:
            path = f"/{urlsplit(self.path).path.split('/')[1]}"
            content = server.said.get(path, bytes)(content)
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def _upgrade(self, client_id: str) -> None:
            key = self.headers["Sec-WebSocket-Key"].encode() + GUID.encode()
            self.send_response(101)
            accept = base64.b64encode(hashlib.sha1(key).digest()).decode()
            self.send_header("Sec-WebSocket-Accept", accept)
            self.end_headers()
            server.listen(client_id, self.connection)
            self.connection.recv(64)  # until the client says goodbye
            self.close_connection = True

        def log_message(self, format: str, *args: Any) -> None:
            pass

    return Handler
