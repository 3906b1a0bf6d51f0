"""Basis files: the orthonormal bases Q_c and Q_s of each layer, and nothing of the model itself.

A safetensors file with float32 tensors `<module path>.content` and `<module path>.style`, each
(out, rank) or, on the input side, (n * kernel, rank). Files converted to float16 or bfloat16 are
read too. A layer may have one or both. Metadata:
`format` = craft-basis, `format_version`, `side`, `base_model` (the hash of the model it was
trained on, as information: quantised copies of one model have other hashes, so no file is refused
for it), `layers` (JSON: the module paths in depth order), `ranks` (JSON: path -> [content,
style], 0 where absent), and any further text the writer adds.
CRAFT-LoRA (2026), arXiv:2602.18936, Eqs. 1, 3 and 4.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor

from ..errors import CraftError, listed
from ..json_text import shallow_json
from ..lora.factors import is_plain_float
from ..tensor_file import Kind, decoding, read, read_metadata, save
from ..types import ROLES, Factors, Role
from .subspace import (
    Side,
    dimension,
    low_rank_patch,
    merge,
    refined,
    require_orthonormal,
    require_side,
)

Which = Literal["content", "style", "both"]
WHICH: tuple[Which, ...] = get_args(Which)

FORMAT = "craft-basis"
FORMAT_VERSION = 1
KIND = Kind(
    "basis file", "Copy or make it again", FORMAT, FORMAT_VERSION,
    "Choose a file made by training a rank-limited basis; LoRAs have their own loader",
)  # fmt: skip
_OWN_METADATA = ("format", "format_version", "side", "base_model", "layers", "ranks")


@dataclass(frozen=True)
class LayerBasis:
    """Q_c and Q_s of one layer, each (out, rank) float32; one may be absent.

    They are as a file holds them, orthonormal up to the digits it was stored with.
    """

    content: Tensor | None = None
    style: Tensor | None = None

    def select(self, which: Which) -> Tensor | None:
        """Q_c, Q_s, or their merged basis (Eq. 3), orthonormal to float32's last digits; None
        where this layer has neither asked for."""
        if which == "both" and self.content is not None and self.style is not None:
            return merge(self.content, self.style)
        wanted = {"content": self.content, "style": self.style}
        one = wanted.get(which, self.style if self.content is None else self.content)
        return None if one is None else refined(one)


@dataclass(frozen=True)
class Basis:
    """The bases of a model's layers by module path, in depth order. name, digest: of its file, and
    short, for what is trained with it; "" where it is in none."""

    layers: Mapping[str, LayerBasis]
    side: Side = "output"
    base_model: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    name: str = ""
    digest: str = ""

    def part_taken(self, which: Which) -> Which:
        """`which`, or the one part that there is where both are asked for."""
        parts = [role for role in ROLES if any(getattr(one, role) is not None
                                               for one in self.layers.values())]  # fmt: skip
        return parts[0] if which == "both" and len(parts) == 1 else which

    def select(self, which: Which) -> dict[str, Tensor]:
        """Q by module path of the layers that have what was asked for; CraftError if none has."""
        require_which(which)
        chosen = {path: layer.select(which) for path, layer in self.layers.items()}
        found = {path: q for path, q in chosen.items() if q is not None}
        if not found:
            raise CraftError(
                f"This basis file has no {which} basis",
                "A file may hold content bases, style bases, or both",
                "Choose another part of the file, or another file",
            )
        return found


@dataclass(frozen=True)
class Header:
    """What a basis file says about itself, read without its tensors."""

    side: Side
    base_model: str
    ranks: Mapping[str, tuple[int, int]]
    metadata: Mapping[str, str]

    def has(self, which: Which) -> bool:
        """Whether any layer has a basis of this kind."""
        require_which(which)
        content, style = (any(pair[i] for pair in self.ranks.values()) for i in (0, 1))
        return {"content": content, "style": style, "both": content or style}[which]


def write_basis(path: str | Path, basis: Basis, exclusive: bool = False) -> None:
    """Save whole or not at all; same basis, same bytes. exclusive: Taken where there is a file.

    CraftError if the basis is empty or would not be accepted by `read_basis`, or if the file
    cannot be written.
    """
    _require_valid(basis)
    tensors = {
        f"{layer}.{role}": q.detach().to("cpu", torch.float32)
        for layer, pair in basis.layers.items()
        for role, q in _present(pair)
    }
    save(Path(path), tensors, _metadata(basis), "A basis", exclusive=exclusive)


def read_basis(path: str | Path) -> Basis:
    """The file's basis, every Q checked; CraftError for anything else than a basis file."""
    header = read_header(path)
    tensors = read(Path(path), KIND)[0]
    layers = {
        layer: LayerBasis(*(tensors.pop(f"{layer}.{role}", None) for role in ROLES))
        for layer in header.ranks
    }
    given = [q for pair in layers.values() for _, q in _present(pair)]
    if not tensors and any(q.ndim != 2 or not is_plain_float(q) for q in given):
        raise KIND.damaged(Path(path), "a basis of a layer is no matrix of floating point numbers")
    with decoding(Path(path), KIND):
        layers = {
            layer: LayerBasis(*(q if q is None else q.float() for q in (pair.content, pair.style)))
            for layer, pair in layers.items()
        }
    basis = Basis(layers, header.side, header.base_model, header.metadata)
    if tensors or _ranks(basis) != header.ranks:
        raise KIND.damaged(Path(path), "its tensors are not those its metadata lists")
    _require_valid(basis)
    return basis


def read_header(path: str | Path) -> Header:
    """Side, base model and ranks, from the metadata alone."""
    metadata = read_metadata(Path(path), KIND)
    side = metadata.get("side", "")
    require_side(side)
    further = {key: text for key, text in metadata.items() if key not in _OWN_METADATA}
    base_model = metadata.get("base_model", "")
    return Header(side, base_model, _read_ranks(path, metadata), further)  # type: ignore[arg-type]


def match_layers(
    chosen: Mapping[str, Tensor],
    layers: Mapping[str, tuple[int, ...]],
    side: Side = "output",
    allow_missing: bool = False,
) -> dict[str, Tensor]:
    """Those of the chosen Q (see `Basis.select`) whose layer the model has, sizes checked.

    layers: module path -> weight shape of the model. CraftError if a size differs, if nothing
    matches, or, unless allow_missing, if the model lacks a layer.
    """
    missing = [path for path in chosen if path not in layers]
    matched = {path: q for path, q in chosen.items() if path in layers}
    if missing and (not matched or not allow_missing):
        raise CraftError(
            f"The model lacks {len(missing)} of the basis's {len(chosen)} layers: "
            f"{listed(missing)}",
            "A basis fits models of the architecture it was trained on",
            "Use such a model" + (", or set allow_missing to go without" if matched else ""),
        )
    wrong = [p for p, q in matched.items() if q.shape[0] != dimension(layers[p], side)]
    if wrong:
        raise CraftError(
            f"The basis has other sizes than the model in {len(wrong)} layers: {listed(wrong)}",
            f"On the {side} side a basis has as many rows as the layer has {side}s",
            "Use a basis trained on this model's architecture",
        )
    return matched


def export_lora(
    basis: Basis,
    weights: Mapping[str, Tensor],
    which: Which = "both",
    strength: float = 1.0,
) -> dict[str, tuple[Factors, ...]]:
    """The projection of these weights as LoRA factors by module path.

    weights: the base model's weights, (out, n) or (out, n, *kernel), of every layer of the
    basis; each is asked for once. The LoRA is exact for this base model only.
    """
    chosen = basis.select(which)
    missing = [path for path in chosen if path not in weights]
    if missing:
        raise CraftError(
            f"No weights were given for {len(missing)} layers: {listed(missing)}",
            "A projection is exported for one base model, from its own weights",
            "Give the weights of every layer of the basis",
        )
    return {
        path: (low_rank_patch(weights[path], q, basis.side, strength),)
        for path, q in chosen.items()
    }


def require_which(which: str) -> None:
    """CraftError unless which is "content", "style" or "both"."""
    if which not in WHICH:
        raise CraftError(
            f"which = {which!r}", f"It can be {', '.join(WHICH)}", "Choose one of these"
        )


def _present(pair: LayerBasis) -> Iterable[tuple[Role, Tensor]]:
    return ((role, q) for role in ROLES if (q := getattr(pair, role)) is not None)


def _ranks(basis: Basis) -> dict[str, tuple[int, int]]:
    def rank(q: Tensor | None) -> int:
        return 0 if q is None else q.shape[-1]

    return {path: (rank(pair.content), rank(pair.style)) for path, pair in basis.layers.items()}


def _require_valid(basis: Basis) -> None:
    require_side(basis.side)
    for path, pair in basis.layers.items():
        rows = {q.shape[0] for _, q in _present(pair)}
        if len(rows) != 1:
            raise CraftError(
                f"{path} has {'bases of different sizes' if rows else 'no basis'}",
                "A layer has a content basis, a style basis, or both, in the same space",
                "Leave the layer out, or make its bases again",
            )
        for role, q in _present(pair):
            require_orthonormal(q, f"The {role} basis of {path}")
    if not basis.layers:
        raise CraftError(
            "The basis has no layers", "At least one is needed", "Train it on some layers"
        )


def _metadata(basis: Basis) -> dict[str, str]:
    taken = sorted(set(basis.metadata) & set(_OWN_METADATA))
    if taken:
        raise CraftError(
            f"Further metadata was given under {', '.join(taken)}",
            "These names are the format's own",
            "Choose other names",
        )
    return {
        **basis.metadata,
        "format": FORMAT,
        "format_version": str(FORMAT_VERSION),
        "side": basis.side,
        "base_model": basis.base_model,
        "layers": json.dumps(list(basis.layers)),
        "ranks": json.dumps(_ranks(basis)),
    }


def _read_ranks(path: str | Path, metadata: Mapping[str, str]) -> dict[str, tuple[int, int]]:
    try:
        layers, ranks = shallow_json(metadata["layers"]), shallow_json(metadata["ranks"])
        return {layer: (int(ranks[layer][0]), int(ranks[layer][1])) for layer in layers}
    except (KeyError, IndexError, TypeError, ValueError, OverflowError) as error:
        raise KIND.damaged(Path(path), "its list of layers and ranks is not readable") from error
