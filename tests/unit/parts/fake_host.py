"""A small server among several: its pictures show what the prompt says, not when it ran."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Mapping
from typing import Any

from fake_comfyui import LORAS, OBJECT_INFO, FakeComfyUI
from PIL import Image, PngImagePlugin


class FakeHost(FakeComfyUI):
    """version, pack: of ComfyUI and of the pack, "" for none. card: hosts of another one give other
    pictures. hashes: of the LoRAs that are listed. `at_job` is called with the number of
    each prompt before it runs."""

    def __init__(
        self,
        version: str = "0.30.0",
        pack: str = "1.0",
        card: str = "",
        port: int = 0,
        hashes: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(port)
        self.version, self.pack, self.card = version, pack, card
        self.hashes = {name: "a" * 64 for name in LORAS} if hashes is None else hashes
        self.at_job: Callable[[int], None] = lambda _: None

    def answer(self, path: str) -> Any:
        if path == "/system_stats":
            devices = [{"name": "card", "vram_free": 8e9}]
            return {"system": {"comfyui_version": self.version}, "devices": devices}
        if path == "/object_info":
            info = json.loads(json.dumps(OBJECT_INFO))
            inputs = info["Router"]["input"]["required"]
            inputs["content_lora"][1]["options"] = inputs["style_lora"][0] = list(self.hashes)
            return info
        return super().answer(path)

    def tell_of(self, name: str) -> Any:
        if not self.pack:
            return {}
        return {"version": self.pack, "sha256": self.hashes.get(name), "bytes": 10}

    def _run(self, body: dict[str, Any]) -> None:
        self.at_job(len(self.ran) + 1)
        super()._run(body)

    def file(self, number: int) -> bytes:
        told = json.dumps(self.ran[number - 1], sort_keys=True)
        colour = hashlib.sha256(f"{told}{self.card}".encode()).digest()
        info, file = PngImagePlugin.PngInfo(), io.BytesIO()
        info.add_text("prompt", told)
        Image.new("RGB", (4, 4), tuple(colour[:3])).save(file, "PNG", pnginfo=info)
        return file.getvalue()
