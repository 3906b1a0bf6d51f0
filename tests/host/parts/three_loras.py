"""A small model of each family with three LoRA files, named as the family's users get them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import comfy.sample
import family_loras as files
import tiny
import torch
from craft_lora_pack.comfy_adapter.engine.modules import host_names, model_layers
from craft_lora_pack.craft_core.lora import pair_statistics, parse_lora
from craft_lora_pack.craft_core.types import Bank, Branch, Routing

ROLES = ("content", "content", "style")
STRENGTHS = (0.7, 0.5, 0.9)


@dataclass(frozen=True)
class Family:
    """A model family, the files its users bring (by branch, in the order of ROLES), and where
    content and style may act: beginnings of module paths."""

    make: Callable[[], Any]
    namings: tuple[files.Naming, files.Naming, files.Naming]
    content: str
    style: str


FAMILIES = {
    "sd15": Family(tiny.sd15, (files.KOHYA,) * 3, "input_blocks", "output_blocks"),
    "sdxl": Family(  # B-LoRA's blocks, which only an SDXL has
        functools.partial(tiny.sdxl, transformer_depth_output=[0, 0, 1, 1, 1, 1]),
        (files.KOHYA,) * 3,
        "output_blocks.0.1",
        "output_blocks.1.1",
    ),
    "flux": Family(
        tiny.flux,
        (files.FLUX_DIFFUSERS, files.KOHYA, files.FLUX_DIFFUSERS),
        "double_blocks",
        "single_blocks",
    ),
    "z_image": Family(
        tiny.z_image,
        (files.Z_IMAGE_AI_TOOLKIT, files.KOHYA, files.Z_IMAGE_MUSUBI),
        "layers.0",
        "layers.1",
    ),
    "qwen_image": Family(
        tiny.qwen_image,
        (files.QWEN_DIFFSYNTH, files.KOHYA, files.QWEN_DIFFUSERS),
        "transformer_blocks.0",
        "transformer_blocks.1",
    ),
}


@dataclass(frozen=True)
class Case:
    """A model with three files: what is in them, the bank they make, and the plain matrices."""

    name: str
    model: Any
    layers: dict[str, tuple[int, ...]]
    states: tuple[dict[str, torch.Tensor], ...]
    deltas: tuple[dict[str, torch.Tensor], ...]
    parsed: tuple[Any, ...]

    @property
    def family(self) -> Family:
        return FAMILIES[self.name]

    def latent(self, batch: int = 1) -> dict:
        empty = tiny.latent(batch, size=8)["samples"]
        return {"samples": comfy.sample.fix_empty_latent_channels(self.model, empty)}

    def bank(self, strengths=STRENGTHS, order=(0, 1, 2)) -> Bank:
        branches = [
            Branch(f"{ROLES[j]} {j}", ROLES[j], self.parsed[j].layers, strengths[j]) for j in order
        ]
        return Bank.of(branches, list(self.layers))

    def routing(self, bank: Bank, order) -> Routing:
        """All markers present; each role on its part of the model."""
        own = {
            role: frozenset(p for p in self.layers if f"{p}.".startswith(f"{start}."))
            for role, start in (("content", self.family.content), ("style", self.family.style))
        }
        branches = bank.branches
        return Routing(
            (1.0,) * len(branches),
            tuple(own[b.role] for b in branches),
            statistics(self.name, order),
        )


@functools.cache
def case(name: str) -> Case:
    family = FAMILIES[name]
    model = family.make()
    layers = model_layers(model)
    made = [
        naming.file(layers, rank, seed=21 + rank, size=1.0)
        for naming, rank in zip(family.namings, (4, 3, 2), strict=True)
    ]
    states, deltas = zip(*made, strict=True)
    parsed = tuple(parse_lora(state, {}, layers, host_names(model)) for state in states)
    return Case(name, model, layers, states, deltas, parsed)


@functools.cache
def statistics(name: str, order: tuple[int, ...]):
    made = case(name)
    return pair_statistics(made.bank(order=order).branches, list(made.layers))
