"""The trained small world, loaded in this process as its node pack and the stock nodes do it."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

import nodes

from launcher.paths import ROOT
from launcher.run.inside_host import load_pack

CHECKPOINT = "craft_small_world.safetensors"
CONTENT = "craft_small_world_content.safetensors"
STYLE = "craft_small_world_style.safetensors"


@dataclass(frozen=True)
class World:
    model: Any
    clip: Any
    vae: Any

    def encode(self, text: str):
        return nodes.CLIPTextEncode().encode(self.clip, text)[0]

    def with_loras(self, *files: tuple[str, float]) -> World:
        """Through the host's LoRA loader, one file and its strength after another."""
        model, clip = self.model, self.clip
        for name, strength in files:
            model, clip = nodes.LoraLoader().load_lora(model, clip, name, strength, strength)
        return World(model, clip, self.vae)


def load() -> World:
    pack = load_pack(ROOT / "small_world", "craft_small_world")
    importlib.import_module(".register", pack.__name__).register()
    return World(*nodes.CheckpointLoaderSimple().load_checkpoint(CHECKPOINT))
