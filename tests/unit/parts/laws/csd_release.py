"""A small CSD file in each spelling that there is, and OpenAI's formula of its features.

Names and shapes are those of CSD's release, whose tower has width 1024 and 24 layers.
"""

from __future__ import annotations

import argparse
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from torch import Tensor
from torch.nn import functional

WIDTH, LAYERS, PATCH, GRID, FEATURES = 128, 3, 4, 4, 24
MEAN = (0.48145466, 0.4578275, 0.40821073)  # of the pictures that OpenAI trained CLIP on
DEVIATION = (0.26862954, 0.26130258, 0.27577711)


def csd_weights(seed: int = 0, layers: int = LAYERS, width: int = WIDTH) -> dict[str, Tensor]:
    """Random weights by the release's names, without what stands before them.

    They are numbers that half precision has, in which the host may hold them.
    """
    shapes = {
        "class_embedding": (width,),
        "positional_embedding": (GRID**2 + 1, width),
        "conv1.weight": (width, 3, PATCH, PATCH),
        "ln_pre.weight": (width,),
        "ln_pre.bias": (width,),
    }
    for index in range(layers):
        block = f"transformer.resblocks.{index}"
        shapes |= {
            f"{block}.attn.in_proj_weight": (3 * width, width),
            f"{block}.attn.in_proj_bias": (3 * width,),
            f"{block}.attn.out_proj.weight": (width, width),
            f"{block}.attn.out_proj.bias": (width,),
            f"{block}.ln_1.weight": (width,),
            f"{block}.ln_1.bias": (width,),
            f"{block}.mlp.c_fc.weight": (4 * width, width),
            f"{block}.mlp.c_fc.bias": (4 * width,),
            f"{block}.mlp.c_proj.weight": (width, 4 * width),
            f"{block}.mlp.c_proj.bias": (width,),
            f"{block}.ln_2.weight": (width,),
            f"{block}.ln_2.bias": (width,),
        }
    shapes |= {"ln_post.weight": (width,), "ln_post.bias": (width,)}
    whole = {
        "last_layer_style": (width, FEATURES),
        "last_layer_content": (width, FEATURES),
        **{f"backbone.{name}": shape for name, shape in shapes.items()},
    }
    generator = torch.Generator().manual_seed(seed)
    made = {name: torch.randn(shape, generator=generator) for name, shape in whole.items()}
    return {
        name: _placed(name, one * (0.3 if one.ndim == 1 else 0.1)).half().float()
        for name, one in made.items()
    }


def _placed(name: str, one: Tensor) -> Tensor:
    return one + 1 if ".ln_" in name and name.endswith("weight") else one


def write_release(path: Path, weights: dict[str, Tensor]) -> None:
    """As the authors' training saves it: with optimisers, a number of numpy, and a Namespace."""
    rate = {"lr": np.float64(1e-4), "momentum": 0.9, "params": [0]}
    momentum = {0: {"momentum_buffer": torch.ones(3)}}
    content = {
        "model_state_dict": {f"module.{name}": one for name, one in weights.items()},
        "opt_bb": {"state": momentum, "param_groups": [rate]},
        "opt_proj": {"state": momentum, "param_groups": [rate]},
        "iter": 80000,
        "args": argparse.Namespace(arch="vit_large", lr=0.003, eval_k=[1, 10, 100]),
        "fp16_scaler": {"scale": 65536.0, "growth_factor": 2.0, "_growth_tracker": 3},
    }
    torch.save(content, path)
    with zipfile.ZipFile(path) as file:
        parts = {name: file.read(name) for name in file.namelist()}
    with zipfile.ZipFile(path, "w") as file:  # with the names of the numpy before 2.0
        for name, part in parts.items():
            file.writestr(name, part.replace(b"numpy._core", b"numpy.core"))


def _write_again(path: Path, weights: dict[str, Tensor]) -> None:
    """The checkpoint as it is today where someone has loaded and saved it."""
    content = {"model_state_dict": weights, "args": argparse.Namespace(), "rate": np.float64(1e-4)}
    torch.save(content, path)


def _write_weights(path: Path, weights: dict[str, Tensor]) -> None:
    torch.save(weights, path)


def _write_safetensors(path: Path, weights: dict[str, Tensor]) -> None:
    safetensors.torch.save_file(weights, path)


def _write_with_projection(path: Path, weights: dict[str, Tensor]) -> None:
    renamed = {f"model.{name}": one.half() for name, one in weights.items()}
    unused = {"model.backbone.proj": torch.ones(WIDTH, FEATURES)}
    safetensors.torch.save_file(renamed | unused, path)


SPELLINGS: dict[str, Callable[[Path, dict[str, Tensor]], None]] = {
    "release.pth": write_release,
    "again.pt": _write_again,
    "weights.bin": _write_weights,
    "plain.safetensors": _write_safetensors,
    "half.safetensors": _write_with_projection,
}


def openai_features(weights: dict[str, Tensor], pixels: Tensor, head: str) -> Tensor:
    """pixels (B, 3, h, w), prepared -> unit vectors (B, FEATURES), in float64.

    The tower of OpenAI's CLIP: patches and a class token, layers that normalise before they act,
    GELU as x sigmoid(1.702 x), and the class token's own output.
    """
    own = {name.removeprefix("backbone."): one.double() for name, one in weights.items()}
    width = len(own["class_embedding"])
    kernel = own["conv1.weight"]
    patch = kernel.shape[-1]
    cut = functional.unfold(pixels.double(), patch, stride=patch)  # (B, 3 patch patch, patches)
    tokens = cut.transpose(1, 2) @ kernel.flatten(1).T
    first = own["class_embedding"].expand(len(tokens), 1, width)
    tokens = torch.cat([first, tokens], 1) + own["positional_embedding"]
    tokens = _normalised(tokens, own, "ln_pre")
    layers = {name.split(".")[2] for name in own if name.startswith("transformer.")}
    for index in range(len(layers)):
        block = f"transformer.resblocks.{index}"
        tokens = tokens + _attended(_normalised(tokens, own, f"{block}.ln_1"), own, block)
        inner = _linear(_normalised(tokens, own, f"{block}.ln_2"), own, f"{block}.mlp.c_fc")
        tokens = tokens + _linear(inner * torch.sigmoid(1.702 * inner), own, f"{block}.mlp.c_proj")
    found = _normalised(tokens[:, 0], own, "ln_post") @ own[head]
    return found / found.norm(dim=1, keepdim=True)


def prepared(pictures: Tensor) -> Tensor:
    """Pictures (B, h, w, 3) of the tower's size, in steps of 1/255 -> (B, 3, h, w)."""
    return ((pictures - torch.tensor(MEAN)) / torch.tensor(DEVIATION)).movedim(-1, 1)


def _linear(x: Tensor, own: dict[str, Tensor], name: str) -> Tensor:
    return x @ own[f"{name}.weight"].T + own[f"{name}.bias"]


def _normalised(x: Tensor, own: dict[str, Tensor], name: str) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    spread = (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    return centred / spread * own[f"{name}.weight"] + own[f"{name}.bias"]


def _attended(x: Tensor, own: dict[str, Tensor], block: str) -> Tensor:
    width = x.shape[-1]
    every = x @ own[f"{block}.attn.in_proj_weight"].T + own[f"{block}.attn.in_proj_bias"]
    found = []
    for start in range(0, width, 64):
        query, key, value = (every[..., part + start : part + start + 64]
                             for part in (0, width, 2 * width))  # fmt: skip
        found.append((query @ key.transpose(1, 2) / 8).softmax(-1) @ value)
    return _linear(torch.cat(found, -1), own, f"{block}.attn.out_proj")
