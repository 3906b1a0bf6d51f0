"""CLIP's text tower with its projection, in a safetensors file: checked before anything is made.

CLIP (Radford et al. 2021, arXiv:2103.00020) compares a picture with a text in a space of its own.
Into it goes the vector of the text's last token, by a matrix without a bias:

    features = final_layer_norm(x)[end of text] @ text_projection

Names and shapes are those that transformers writes, or OpenCLIP's; files of whole CLIPs have the
picture tower beside them. Without the matrix there is nothing to compare, and a file does not have
to have it. Older ComfyUI began with the identity in its place, and saved that where a file had had
none.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ...errors import CraftError, listed
from ...tensor_file import Kind, read

SAFETENSORS = (".safetensors", ".sft")
HEAD_WIDTH = 64  # of the attention, in all of OpenAI's and OpenCLIP's text towers
PROJECTION, TRANSPOSED = "text_projection.weight", "text_projection"  # (features, width); (w., f.)
_KIND = Kind("text encoder", "Download it again, or choose another file")
_VOCABULARY = 49408
_LAYERS = range(2, 33)  # the host tells the towers apart by them, and renames 32 of OpenCLIP's
_WIDTHS = range(HEAD_WIDTH, 2049, HEAD_WIDTH)
_TOKENS, _LONG = 77, 248  # of CLIP, and of Long-CLIP (arXiv:2403.15378)
_DEEP = range(23, 31)  # layers of the towers that the host takes for ViT-H's; these are not long
_TOWER, _BLOCKS = "text_model.", "text_model.encoder.layers."
_OPEN, _OPEN_BLOCKS = "transformer.resblocks.0.ln_1.weight", "transformer.resblocks."
_SEVERAL = ("clip_l.", "clip_g.")  # before the names of a file with several text encoders


@dataclass(frozen=True)
class TextTower:
    """layers and width of the tower; tokens: of a text that it looks at. projection: (width,
    width), features by inputs."""

    layers: int
    width: int
    tokens: int
    projection: Tensor


def read_text_tower(path: Path) -> TextTower:
    """The tower's sizes and its projection, mapped into memory; CraftError for a file without."""
    if not path.name.lower().endswith(SAFETENSORS):
        raise _no_tower(path, "it is no safetensors file")
    tensors, metadata = read(path, _KIND, mapped=True)
    if "_quantization_metadata" in metadata or any(map(_is_quantised, tensors)):
        raise _no_tower(path, "its weights are quantised")
    several = [name for name in tensors if name.startswith(_SEVERAL)]
    if several:
        raise _no_tower(path, f"it also has {listed(several, 3)}")
    found = _sizes(path, {name: tuple(one.shape) for name, one in tensors.items()})
    layers, width, tokens = found
    for name in _expected(_OPEN in tensors, *found):
        _check_type(path, name, tensors[name])
    return TextTower(layers, width, tokens, _projection(path, tensors, width))


def _is_quantised(name: str) -> bool:
    return name == "scaled_fp8" or name.endswith(".comfy_quant")


def _sizes(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, int, int]:
    """(layers, width, tokens) of a tower whose names and shapes are all there."""
    is_open = _OPEN in shapes
    if is_open and any(name.startswith(_TOWER) for name in shapes):
        raise _no_tower(path, f"it has both {_TOWER} and {_OPEN_BLOCKS}")
    positions = (
        "positional_embedding" if is_open else f"{_TOWER}embeddings.position_embedding.weight"
    )
    blocks = _blocks(shapes, _OPEN_BLOCKS if is_open else _BLOCKS)
    if positions not in shapes or not blocks:
        raise _no_tower(path, "it has no text tower of CLIP")
    if len(shapes[positions]) != 2:
        raise _no_tower(path, f"{positions} has the shape {shapes[positions]} and not 2 axes")
    tokens, width = shapes[positions]
    layers = len(blocks)
    if layers not in _LAYERS or width not in _WIDTHS:
        raise _no_tower(path, f"its text tower has {layers} layers of width {width}")
    if tokens != _TOKENS and (tokens != _LONG or layers in _DEEP):
        raise _no_tower(path, f"its text tower looks at {tokens} tokens")
    for name, shape in _expected(is_open, layers, width, tokens).items():
        if name not in shapes:
            raise _no_tower(path, f"it has no {name}")
        if shapes[name] != shape:
            raise _no_tower(path, f"{name} has the shape {shapes[name]} in place of {shape}")
    return layers, width, tokens


def _blocks(names: Iterable[str], prefix: str) -> set[str]:
    """The numbers of layers, as they stand after the prefix."""
    return {
        name.removeprefix(prefix).partition(".")[0] for name in names if name.startswith(prefix)
    }


def _expected(is_open: bool, layers: int, width: int, tokens: int) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor of a tower by its name, but for the projection."""
    return (_open_shapes if is_open else _shapes)(layers, width, tokens)


def _shapes(layers: int, width: int, tokens: int) -> dict[str, tuple[int, ...]]:
    """By the names that transformers gives."""
    found: dict[str, tuple[int, ...]] = {
        f"{_TOWER}embeddings.token_embedding.weight": (_VOCABULARY, width),
        f"{_TOWER}embeddings.position_embedding.weight": (tokens, width),
    }
    norms, linears = [f"{_TOWER}final_layer_norm"], {}
    for block in (f"{_BLOCKS}{index}" for index in range(layers)):
        norms += [f"{block}.layer_norm1", f"{block}.layer_norm2"]
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            linears[f"{block}.self_attn.{name}"] = (width, width)
        linears[f"{block}.mlp.fc1"] = (4 * width, width)
        linears[f"{block}.mlp.fc2"] = (width, 4 * width)
    return found | _with_biases(norms, linears, width)


def _open_shapes(layers: int, width: int, tokens: int) -> dict[str, tuple[int, ...]]:
    """By the names that OpenCLIP gives."""
    found: dict[str, tuple[int, ...]] = {
        "token_embedding.weight": (_VOCABULARY, width),
        "positional_embedding": (tokens, width),
    }
    norms, linears = ["ln_final"], {}
    for block in (f"{_OPEN_BLOCKS}{index}" for index in range(layers)):
        norms += [f"{block}.ln_1", f"{block}.ln_2"]
        found[f"{block}.attn.in_proj_weight"] = (3 * width, width)
        found[f"{block}.attn.in_proj_bias"] = (3 * width,)
        linears[f"{block}.attn.out_proj"] = (width, width)
        linears[f"{block}.mlp.c_fc"] = (4 * width, width)
        linears[f"{block}.mlp.c_proj"] = (width, 4 * width)
    return found | _with_biases(norms, linears, width)


def _with_biases(
    norms: Iterable[str], linears: Mapping[str, tuple[int, int]], width: int
) -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {}
    for name in norms:
        found[f"{name}.weight"] = found[f"{name}.bias"] = (width,)
    for name, shape in linears.items():
        found[f"{name}.weight"], found[f"{name}.bias"] = shape, shape[:1]
    return found


def _check_type(path: Path, name: str, tensor: Tensor) -> None:
    if not tensor.is_floating_point() or tensor.itemsize < 2:
        raise _no_tower(path, f"{name} is of {tensor.dtype}")


def _projection(path: Path, tensors: Mapping[str, Tensor], width: int) -> Tensor:
    """(width, width); CraftError where there is none, or one that nobody trained."""
    names = [name for name in (PROJECTION, TRANSPOSED) if name in tensors]
    if len(names) != 1:
        raise _no_tower(
            path, f"it has no {TRANSPOSED}" if not names else f"it has several {TRANSPOSED}"
        )
    (name,) = names
    found = tensors[name]
    if tuple(found.shape) != (width, width):
        raise _no_tower(
            path, f"{name} has the shape {tuple(found.shape)} in place of {(width, width)}"
        )
    _check_type(path, name, found)
    if not found.isfinite().all():
        raise _no_tower(path, f"{name} has numbers that are not finite")
    if not found.any() or torch.equal(found.float(), torch.eye(width)):
        raise _no_tower(
            path, f"{name} is zero or the identity, which is saved where a file had none"
        )
    return found if name == PROJECTION else found.T


def _no_tower(path: Path, reason: str) -> CraftError:
    return CraftError(
        f"{path.name} cannot score prompts: {reason}",
        "It takes CLIP's text tower with text_projection, the matrix that makes its vectors "
        "comparable to those of pictures",
        "Choose the file of a whole CLIP, such as OpenAI's clip-vit-large-patch14 or LAION's "
        "CLIP-ViT-H-14",
    )
