"""A small server among several: its pictures show what the prompt says, not when it ran."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Mapping
from typing import Any

from craft_lora_pack.client.loras.announced import (
    MADE,
    RECEIVED,
    SEND,
    VARIABLE,
    Announced,
    announced,
)
from craft_lora_pack.craft_core.errors import CraftError
from fake_comfyui import LORAS, OBJECT_INFO, FakeComfyUI
from PIL import Image, PngImagePlugin


class FakeHost(FakeComfyUI):
    """version, pack: of ComfyUI and of the pack, "" for none. card: hosts of another one give other
    pictures. hashes: of the LoRAs that are listed. `at_job` is called with the number of
    each prompt before it runs. `takes` LoRAs; `received` are those that came, each in so many
    `reads`, and `at_read` is called before each of them. windows: lists and takes names with
    backslashes alone."""

    def __init__(
        self,
        version: str = "0.30.0",
        pack: str = "1.0",
        card: str = "",
        port: int = 0,
        hashes: Mapping[str, str] | None = None,
        windows: bool = False,
    ) -> None:
        super().__init__(port)
        self._files: dict[str, bytes] = {}  # what a picture is of -> it
        self.version, self.pack, self.card, self.windows = version, pack, card, windows
        self.hashes = dict.fromkeys(LORAS, "a" * 64) if hashes is None else hashes
        self.at_job: Callable[[int], None] = lambda _: None
        self.takes = True
        self.received: dict[str, bytes] = {}
        self.offers: list[str] = []
        self.reads = 0
        self.at_read: Callable[[int], None] = lambda _: None

    def answer(self, path: str) -> Any:
        if path == "/system_stats":
            devices = [{"name": "card", "vram_free": 8e9}]
            return {"system": {"comfyui_version": self.version}, "devices": devices}
        _, asked, kind = path.partition("/object_info")
        if asked:
            info = json.loads(json.dumps(OBJECT_INFO))
            inputs = info["Router"]["input"]["required"]
            names = [one.replace("/", "\\") if self.windows else one for one in self.hashes]
            inputs["content_lora"][1]["options"] = inputs["style_lora"][0] = names
            return {kind[1:]: info[kind[1:]]} if kind[1:] in info else {} if kind else info
        return super().answer(path)

    def tell_of(self, name: str) -> Any:
        if not self.pack:
            return {}
        if self.windows:
            name = name.replace("\\", "/")
        return {"version": self.pack, "sha256": self.hashes.get(name), "bytes": 10}

    def take(self, body: dict[str, Any]) -> tuple[int, Any]:
        if not self.windows:
            return super().take(body)
        text = json.dumps(body["prompt"])
        if "/" in text:
            error = {"message": "Value not in list", "details": text}
            return 400, {"error": {}, "node_errors": {"1": {"errors": [error]}}}
        plain = json.loads(text.replace("\\\\", "/"))  # the same pictures as elsewhere
        return super().take(body | {"prompt": plain})

    def receive(self, query: dict[str, str], headers: Any, body: Any) -> tuple[int, bytes]:
        if not self.pack:
            return super().receive(query, headers, body)
        try:
            return 200, json.dumps({"state": self._state(announced(query, headers), body)}).encode()
        except CraftError as error:
            return 200, json.dumps({"error": str(error)}).encode()

    def _state(self, one: Announced, body: Any) -> str:
        if not self.takes:
            raise CraftError("This ComfyUI takes no LoRAs", "It may", f"Start it with {VARIABLE}")
        if self.hashes.get(one.name, one.sha256) != one.sha256:
            raise CraftError(f"Another file is called {one.name}", "It stays", "Rename it")
        if one.length == 0:
            self.offers.append(one.name)
            known = one.sha256 in self.hashes.values()
            if known:
                self.hashes[one.name] = one.sha256
            return MADE if known else SEND
        content = b""
        while len(content) < one.size:
            self.reads += 1
            self.at_read(self.reads)
            piece = body.read(min(1 << 20, one.size - len(content)))
            if not piece:
                raise CraftError("Not all came", "It comes whole", "Again")
            content += piece
        if hashlib.sha256(content).hexdigest() != one.sha256:
            raise CraftError("It has another hash", "It comes whole", "Again")
        self.received[one.name], self.hashes[one.name] = content, one.sha256
        return RECEIVED

    def _run(self, body: dict[str, Any]) -> None:
        self.at_job(len(self.ran) + 1)
        super()._run(body)

    def outputs(self, prompt: dict[str, Any]) -> dict[str, Any]:
        """A picture of each node that saves; one that has nothing new to do gives its last, and
        comes first, as in the host."""
        found, kept = {}, {}
        for node, one in prompt.items():
            if one["class_type"] == "Save":
                above = one["inputs"]["images"][0]
                parts = {key: prompt[key]["inputs"] for key in (node, above, "1")}
                told = json.dumps(parts, sort_keys=True)
                place = kept if told in self._files else found
                if told not in self._files:
                    self._files[told] = self._picture(told, prompt)
                number = list(self._files).index(told) + 1
                name = f"{one['inputs']['filename_prefix']}_{number:05}_.png"
                place[node] = {"images": [{"filename": name, "subfolder": "", "type": "output"}]}
        return {**kept, **found}

    def file(self, number: int) -> bytes:
        return list(self._files.values())[number - 1]

    def _picture(self, told: str, prompt: dict[str, Any]) -> bytes:
        colour = hashlib.sha256(f"{told}{self.card}".encode()).digest()
        info, file = PngImagePlugin.PngInfo(), io.BytesIO()
        info.add_text("prompt", json.dumps(prompt))
        Image.new("RGB", (4, 4), tuple(colour[:3])).save(file, "PNG", pnginfo=info)
        return file.getvalue()
