"""A small text tower of CLIP's by the names that transformers gives, and the same by OpenCLIP's."""

from __future__ import annotations

import re

import torch
from torch import Tensor

WIDTH, LAYERS, TOKENS, VOCABULARY = 64, 2, 77, 49408
PROJECTION = "text_projection.weight"
_TOWER = "text_model."
_OPEN = {
    "embeddings.token_embedding.weight": "token_embedding.weight",
    "embeddings.position_embedding.weight": "positional_embedding",
    "final_layer_norm": "ln_final",
    "encoder.layers": "transformer.resblocks",
    "layer_norm": "ln_",
    "self_attn.out_proj": "attn.out_proj",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}


def text_weights(
    layers: int = LAYERS, width: int = WIDTH, tokens: int = TOKENS, seed: int = 0
) -> dict[str, Tensor]:
    """Random weights in half precision, the projection among them."""
    shapes: dict[str, tuple[int, ...]] = {
        f"{_TOWER}embeddings.token_embedding.weight": (VOCABULARY, width),
        f"{_TOWER}embeddings.position_embedding.weight": (tokens, width),
    }
    for index in range(layers):
        block = f"{_TOWER}encoder.layers.{index}"
        for part in ("k_proj", "v_proj", "q_proj", "out_proj"):
            shapes[f"{block}.self_attn.{part}.weight"] = (width, width)
            shapes[f"{block}.self_attn.{part}.bias"] = (width,)
        shapes |= {
            f"{block}.layer_norm1.weight": (width,),
            f"{block}.layer_norm1.bias": (width,),
            f"{block}.mlp.fc1.weight": (4 * width, width),
            f"{block}.mlp.fc1.bias": (4 * width,),
            f"{block}.mlp.fc2.weight": (width, 4 * width),
            f"{block}.mlp.fc2.bias": (width,),
            f"{block}.layer_norm2.weight": (width,),
            f"{block}.layer_norm2.bias": (width,),
        }
    shapes |= {
        f"{_TOWER}final_layer_norm.weight": (width,),
        f"{_TOWER}final_layer_norm.bias": (width,),
        PROJECTION: (width, width),
    }
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(one, generator=generator).half() for name, one in shapes.items()}


def as_open_clip(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same weights by OpenCLIP's names, the projection transposed. What is of no text tower
    stays as it is."""
    found: dict[str, Tensor] = {}
    joined: dict[str, dict[str, Tensor]] = {}
    for name, one in weights.items():
        if name == PROJECTION:
            found["text_projection"] = one.T.contiguous()
        elif part := re.fullmatch(
            rf"{_TOWER}encoder\.layers\.(\d+)\.self_attn\.([qkv])_proj\.(\w+)", name
        ):
            whole = f"transformer.resblocks.{part[1]}.attn.in_proj_{part[3]}"
            joined.setdefault(whole, {})[part[2]] = one
        elif name.startswith(_TOWER):
            renamed = name.removeprefix(_TOWER)
            for old, new in _OPEN.items():
                renamed = renamed.replace(old, new)
            found[renamed] = one
        else:
            found[name] = one
    for name, parts in joined.items():
        found[name] = torch.cat([parts[letter] for letter in "qkv"])
    return found
