"""LoRA files named as trainers name them for each model family, and the matrices they stand for.

The names are spelt out here, apart from the library's and the host's own tables.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from raw_lora import ENDINGS

Layers = dict[str, tuple[int, ...]]

_QKV = (("to_q", 1), ("to_k", 1), ("to_v", 1))
_TEXT_QKV = (("add_q_proj", 1), ("add_k_proj", 1), ("add_v_proj", 1))


@dataclass(frozen=True)
class Naming:
    """How one kind of file names a model's layers.

    prefix, flat: the text before a layer's name, and whether its dots become underscores.
    ending: as in raw_lora.ENDINGS. covers: the layers such files adapt, as a pattern.
    parts: layers that the trainer's own model names differently, as pattern -> ((name, share of the
    rows), ...); a layer fused in the host has several.
    """

    prefix: str
    flat: bool
    ending: str
    covers: str = ""
    parts: tuple[tuple[str, tuple[tuple[str, int], ...]], ...] = ()

    def places(self, layers: Layers) -> Iterator[tuple[str, str, slice]]:
        """(stem in the file, module path, rows of the layer's output) of everything it adapts."""
        for path, shape in layers.items():
            if not re.match(self.covers, path):
                continue
            named = self._named(path)
            unit, start = shape[0] // sum(share for _, share in named), 0
            for name, share in named:
                stem = self.prefix + (name.replace(".", "_") if self.flat else name)
                yield stem, path, slice(start, start + share * unit)
                start += share * unit

    def _named(self, path: str) -> tuple[tuple[str, int], ...]:
        for pattern, parts in self.parts:
            if re.fullmatch(pattern, path):
                return tuple((re.sub(pattern, name, path), share) for name, share in parts)
        return ((path, 1),)

    def file(self, layers: Layers, rank: int, seed: int, size: float = 0.3):
        """(state dict, {module path: dW}): a random LoRA, and its matrices by the textbook."""
        generator = torch.Generator().manual_seed(seed)
        down_end, up_end = ENDINGS[self.ending]
        state: dict[str, torch.Tensor] = {}
        deltas: dict[str, torch.Tensor] = {}
        for stem, path, rows in self.places(layers):
            shape = layers[path]
            down = torch.randn(rank, *shape[1:], generator=generator)
            down /= down[0].numel() ** 0.5
            up = torch.randn(rows.stop - rows.start, rank, generator=generator)
            up *= size / rank**0.5
            scale = 1.0
            if self.ending == "kohya":
                scale = 0.5
                state[f"{stem}.alpha"] = torch.tensor(rank * scale)
            state[stem + down_end] = down
            state[stem + up_end] = up.reshape(*up.shape, *[1] * (len(shape) - 2))
            delta = deltas.setdefault(path, torch.zeros(shape))
            product = scale * up.double() @ down.double().flatten(1)
            delta[rows] += product.float().reshape(up.shape[0], *shape[1:])
        return state, deltas


KOHYA = Naming("lora_unet_", True, "kohya")
"""kohya's scripts, on every layer under the host's own names."""

_FLUX = (
    (r"double_blocks\.(\d+)\.img_attn\.qkv", _QKV),
    (r"double_blocks\.(\d+)\.txt_attn\.qkv", _TEXT_QKV),
    (r"double_blocks\.(\d+)\.img_attn\.proj", (("to_out.0", 1),)),
    (r"double_blocks\.(\d+)\.txt_attn\.proj", (("to_add_out", 1),)),
)


def _below(prefix: str, parts: tuple[tuple[str, int], ...]) -> tuple[tuple[str, int], ...]:
    return tuple((prefix + name, share) for name, share in parts)


FLUX_DIFFUSERS = Naming(
    "transformer.", False, "PEFT", r"(double|single)_blocks\.",
    (
        *((pattern, _below(r"transformer_blocks.\1.attn.", parts)) for pattern, parts in _FLUX),
        (r"double_blocks\.(\d+)\.img_mlp\.0", ((r"transformer_blocks.\1.ff.net.0.proj", 1),)),
        (r"double_blocks\.(\d+)\.img_mlp\.2", ((r"transformer_blocks.\1.ff.net.2", 1),)),
        (r"double_blocks\.(\d+)\.txt_mlp\.0",
         ((r"transformer_blocks.\1.ff_context.net.0.proj", 1),)),
        (r"double_blocks\.(\d+)\.txt_mlp\.2", ((r"transformer_blocks.\1.ff_context.net.2", 1),)),
        (r"double_blocks\.(\d+)\.img_mod\.lin", ((r"transformer_blocks.\1.norm1.linear", 1),)),
        (r"double_blocks\.(\d+)\.txt_mod\.lin",
         ((r"transformer_blocks.\1.norm1_context.linear", 1),)),
        (r"single_blocks\.(\d+)\.linear1",
         (*_below(r"single_transformer_blocks.\1.attn.", _QKV),
          (r"single_transformer_blocks.\1.proj_mlp", 4))),
        (r"single_blocks\.(\d+)\.linear2", ((r"single_transformer_blocks.\1.proj_out", 1),)),
        (r"single_blocks\.(\d+)\.modulation\.lin",
         ((r"single_transformer_blocks.\1.norm.linear", 1),)),
    ),
)  # fmt: skip
"""diffusers and SimpleTuner: separate q, k, v and mlp, on the blocks."""

_Z_IMAGE = (
    (r"(.*\.attention)\.qkv", _below(r"\1.", _QKV)),
    (r"(.*\.attention)\.out", ((r"\1.to_out.0", 1),)),
)
Z_IMAGE_AI_TOOLKIT = Naming(
    "diffusion_model.", False, "PEFT", r"(layers|noise_refiner|context_refiner)\.", _Z_IMAGE
)
Z_IMAGE_MUSUBI = Naming("lora_unet_", True, "kohya", r"layers\.", _Z_IMAGE)
QWEN_DIFFSYNTH = Naming("", False, "PEFT default", r"transformer_blocks\.")
QWEN_DIFFUSERS = Naming("transformer.", False, "PEFT", r"transformer_blocks\.")

WAN_DIFFUSERS = Naming(
    "transformer.", False, "PEFT", r"blocks\.|head\.head|text_embedding|time_",
    (
        *((rf"blocks\.(\d+)\.{ours}_attn\.{a}", ((rf"blocks.\1.{theirs}.{b}", 1),))
          for ours, theirs in (("self", "attn1"), ("cross", "attn2"))
          for a, b in (("q", "to_q"), ("k", "to_k"), ("v", "to_v"), ("o", "to_out.0"))),
        (r"blocks\.(\d+)\.ffn\.0", ((r"blocks.\1.ffn.net.0.proj", 1),)),
        (r"blocks\.(\d+)\.ffn\.2", ((r"blocks.\1.ffn.net.2", 1),)),
        (r"head\.head", (("proj_out", 1),)),
        (r"text_embedding\.0", (("condition_embedder.text_embedder.linear_1", 1),)),
        (r"text_embedding\.2", (("condition_embedder.text_embedder.linear_2", 1),)),
        (r"time_embedding\.0", (("condition_embedder.time_embedder.linear_1", 1),)),
        (r"time_embedding\.2", (("condition_embedder.time_embedder.linear_2", 1),)),
        (r"time_projection\.1", (("condition_embedder.time_proj", 1),)),
    ),
)  # fmt: skip
"""SimpleTuner and diffusers, on diffusers' Wan."""

_REFINED = r"context_embedder.token_refiner.refiner_blocks.\1."
HUNYUAN_DIFFUSERS = Naming(
    "transformer.", False, "PEFT", r"(double|single)_blocks\.|txt_in\.individual",
    (
        *FLUX_DIFFUSERS.parts,
        (r"txt_in\.individual_token_refiner\.blocks\.(\d+)\.self_attn\.qkv",
         _below(_REFINED + "attn.", _QKV)),
        (r"txt_in\.individual_token_refiner\.blocks\.(\d+)\.self_attn\.proj",
         ((_REFINED + "attn.to_out.0", 1),)),
        (r"txt_in\.individual_token_refiner\.blocks\.(\d+)\.mlp\.0",
         ((_REFINED + "ff.net.0.proj", 1),)),
        (r"txt_in\.individual_token_refiner\.blocks\.(\d+)\.mlp\.2",
         ((_REFINED + "ff.net.2", 1),)),
        (r"txt_in\.individual_token_refiner\.blocks\.(\d+)\.adaLN_modulation\.1",
         ((_REFINED + "norm_out.linear", 1),)),
    ),
)  # fmt: skip

_PUBLISHED = (
    (r"(.*)\.(img|txt)_attn\.proj", ((r"\1.\2_attn_proj", 1),)),
    (r"(.*)mlp\.0", ((r"\1mlp.fc1", 1),)),
    (r"(.*)mlp\.2", ((r"\1mlp.fc2", 1),)),
    (r"(.*)_mod\.lin", ((r"\1_mod.linear", 1),)),
    (r"(.*)\.modulation\.lin", ((r"\1.modulation.linear", 1),)),
    (r"(.*)self_attn\.(qkv|proj)", ((r"\1self_attn_\2", 1),)),
    (r"(time|guidance)_in\.in_layer", ((r"\1_in.mlp.0", 1),)),
    (r"(time|guidance)_in\.out_layer", ((r"\1_in.mlp.2", 1),)),
)
HUNYUAN_MUSUBI = Naming(
    "lora_unet_",
    True,
    "kohya",
    r"(double|single)_blocks\.|txt_in\.individual|(time|guidance)_in",
    ((r"(.*)\.(img|txt)_attn\.qkv", ((r"\1.\2_attn_qkv", 1),)), *_PUBLISHED),
)
"""musubi-tuner, on the published model."""

HUNYUAN_15_MUSUBI = Naming(
    "lora_unet_", True, "kohya", r"double_blocks\.|txt_in\.individual|time_in",
    ((r"(.*)\.(img|txt)_attn\.qkv", tuple((rf"\1.\2_attn_{part}", 1) for part in "qkv")),
     *_PUBLISHED),
)  # fmt: skip
"""musubi-tuner, on HunyuanVideo 1.5 and HunyuanImage 2.1 as published: q, k and v apart."""

FLUX_UNDERSCORES = Naming(
    "diffusion_model.", False, "bare PEFT", r"(double|single)_blocks\.",
    ((r"(.*)\.(img|txt)_attn\.(qkv|proj)", ((r"\1.\2_attn_\3", 1),)),
     (r"(.*)\.(img|txt)_mlp\.([02])", ((r"\1.\2_mlp_\3", 1),))),
)  # fmt: skip
"""Underscores for some of the dots."""

TRANSFORMER = Naming("transformer.", False, "PEFT")
LYCORIS = Naming("lycoris_", True, "kohya")
"""SimpleTuner, where its model calls the layers as the host does."""
