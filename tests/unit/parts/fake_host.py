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
        self._files: dict[str, bytes] = {}  # what a picture is of -> it
        self.version, self.pack, self.card = version, pack, card
        self.hashes = dict.fromkeys(LORAS, "a" * 64) if hashes is None else hashes
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
