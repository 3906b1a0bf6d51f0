"""Expert encoder files: the weights of an encoder, the layers they scale and the LoRAs they know.

A safetensors file of the encoder's parameters in float32. Metadata: `format` =
craft-expert-encoder, `format_version`, `layers` (JSON: role -> module paths in depth order),
`text_width`, `concepts` (JSON: a list, one a row of the table, of role -> SHA-256 of the LoRA
files), and any further text the writer adds (how it was trained).
CRAFT-LoRA (2026), arXiv:2602.18936, App. B.1.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType

import torch
from torch import Tensor

from ..errors import CraftError
from ..json_text import shallow_json
from ..lora.factors import is_plain_float
from ..tensor_file import Kind, decoding, read, save
from ..types import ROLES, Role
from .network import Concept, ExpertEncoder, parameter_shapes

FORMAT = "craft-expert-encoder"
FORMAT_VERSION = 1
KIND = Kind(
    "expert encoder file", "Copy it again, or train it again", FORMAT, FORMAT_VERSION,
    "Choose a file made by Train Expert Encoder",
)  # fmt: skip
_OWN_METADATA = ("format", "format_version", "layers", "text_width", "concepts")


def write_encoder(
    path: str | Path,
    encoder: ExpertEncoder,
    metadata: Mapping[str, str] = MappingProxyType({}),
    exclusive: bool = False,
) -> None:
    """Save whole or not at all; same encoder and metadata, same bytes. exclusive: Taken where there
    is a file.

    CraftError if the encoder holds NaN or infinity or the file cannot be written.
    """
    taken = sorted(set(metadata) & set(_OWN_METADATA))
    assert not taken, f"the format's own metadata: {taken}"
    tensors = {name: value.to("cpu", torch.float32) for name, value in encoder.state_dict().items()}
    _require_finite(Path(path), tensors)
    own = {
        "format": FORMAT,
        "format_version": str(FORMAT_VERSION),
        "layers": json.dumps(encoder.layers),
        "text_width": str(encoder.text_width),
        "concepts": json.dumps([asdict(concept) for concept in encoder.concepts]),
    }
    save(Path(path), tensors, {**metadata, **own}, "An expert encoder", exclusive=exclusive)


def read_encoder(path: str | Path) -> tuple[ExpertEncoder, dict[str, str]]:
    """(the file's encoder, the writer's further metadata); CraftError for any other file."""
    path = Path(path)
    tensors, metadata = read(path, KIND)
    layers, width, concepts = _described(path, metadata)
    shapes = parameter_shapes(sum(map(len, layers.values())), width, len(concepts))
    if {name: tuple(value.shape) for name, value in tensors.items()} != shapes:
        raise KIND.damaged(path, "its tensors are not those its metadata describes")
    if not all(map(is_plain_float, tensors.values())):
        raise KIND.damaged(path, "its tensors are not floating point numbers")
    with decoding(path, KIND):
        tensors = {name: value.float() for name, value in tensors.items()}
    _require_finite(path, tensors)
    encoder = ExpertEncoder(layers, width, concepts)
    encoder.load_state_dict(tensors)
    further = {key: text for key, text in metadata.items() if key not in _OWN_METADATA}
    return encoder.requires_grad_(False), further


def _described(
    path: Path, metadata: Mapping[str, str]
) -> tuple[dict[Role, list[str]], int, list[Concept]]:
    """(layers by role, width of the text, concepts) as the metadata says. Nothing is made of their
    sizes before the tensors are seen to have them."""
    try:
        layers = shallow_json(metadata["layers"])
        rows = shallow_json(metadata["concepts"])
        concepts = [Concept(tuple(row["content"]), tuple(row["style"])) for row in rows]
        chosen: dict[Role, list[str]] = {role: [str(p) for p in layers[role]] for role in ROLES}
        width = int(metadata["text_width"])
    except (KeyError, TypeError, ValueError) as error:
        raise KIND.damaged(path, "its list of layers and concepts is not readable") from error
    if width < 1 or not any(chosen.values()):
        raise KIND.damaged(path, "it scales no layers or reads no text")
    return chosen, width, concepts


def _require_finite(path: Path, tensors: Mapping[str, Tensor]) -> None:
    broken = [name for name, value in tensors.items() if not bool(torch.isfinite(value).all())]
    if broken:
        raise CraftError(
            f"{path.name}: {', '.join(broken)} holds NaN or infinity",
            "An expert encoder's numbers are finite",
            "Train it again with a lower learning rate",
        )
