"""What the header of a LoRA file says: its layers, kinds and ranks. The numbers are not read."""

from __future__ import annotations

import json
from argparse import Namespace
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...craft_core.errors import CraftError, listed
from ...craft_core.lora.families import is_text_encoder
from ...craft_core.lora.formats import KINDS
from ...craft_core.tensor_file import header_of
from ..stand_in import missing

_LINES = 40  # of metadata
_LETTERS = 100  # of a value of metadata


@dataclass(frozen=True)
class LoraHeader:
    """layers: of the diffusion model, the shapes of each layer's parts; text_encoder: as much of
    text encoders. others: names of no known ending, or of kinds that are not carried."""

    name: str
    layers: Mapping[str, Mapping[str, tuple[int, ...]]]
    text_encoder: Mapping[str, Mapping[str, tuple[int, ...]]]
    others: tuple[str, ...]
    metadata: Mapping[str, str]

    @property
    def kinds(self) -> dict[str, int]:
        """How many layers each kind of adapter has."""
        named = (
            " and ".join(kind.name for kind in KINDS.of(parts)) for parts in self.layers.values()
        )
        return dict(Counter(name or "incomplete" for name in named))

    @property
    def ranks(self) -> list[int]:
        return sorted({parts["down"][0] for parts in self.layers.values() if parts.get("down")})


def report_headers(options: Namespace) -> None:
    """Print what the headers of the files say."""
    headers = [_read(Path(file)) for file in options.files]
    if options.json:
        print(
            json.dumps({"measured": False, "files": [_as_json(one) for one in headers]}, indent=1)
        )
        return
    for letter, header in zip("AB", headers, strict=False):
        print("\n".join(_text(letter, header)))
    if len(headers) == 2:
        first, second = (set(header.layers) for header in headers)
        print(
            f"{len(first & second)} layers in both, {len(first - second)} in A alone, "
            f"{len(second - first)} in B alone, by their names"
        )
    print(
        f"From the headers alone: this Python has no {' and no '.join(missing())}. With ComfyUI's "
        "own Python inspect measures the updates, too."
    )


def _read(path: Path) -> LoraHeader:
    if path.suffix.lower() not in (".safetensors", ".sft"):
        raise CraftError(
            f"{path.name} is not a safetensors file",
            "LoRA files are read as .safetensors only: other formats can run code when opened",
            "Convert it to safetensors",
        )
    try:
        shapes, metadata = header_of(path)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise CraftError(
            f"{path} cannot be read ({reason})",
            "A LoRA file is a whole safetensors file",
            "Check the path, or download the file again",
        ) from error
    found: dict[bool, dict[str, dict[str, tuple[int, ...]]]] = {False: {}, True: {}}
    others = []
    for key, shape in shapes.items():
        split = None if KINDS.refused(key) else KINDS.split(key)
        if split is None:
            others.append(key)
        else:
            found[is_text_encoder(key)].setdefault(split.stem, {})[split.part] = shape
    return LoraHeader(path.name, found[False], found[True], tuple(others), metadata)


def _text(letter: str, header: LoraHeader) -> Iterator[str]:
    ranks = sorted({header.ranks[0], header.ranks[-1]}) if header.ranks else ["-"]
    yield f"{letter}  {header.name}"
    yield f"   {len(header.layers)} layers, rank {' to '.join(map(str, ranks))}"
    yield from (f"   {kind} in {count}" for kind, count in header.kinds.items())
    yield f"   text encoder: {len(header.text_encoder) or 'no'} matrices"
    if header.others:
        yield f"   of no layer: {len(header.others)} ({listed(header.others, 6)})"
    for name, value in list(header.metadata.items())[:_LINES]:
        yield f"   {name}: {value[:_LETTERS]}{'...' if len(value) > _LETTERS else ''}"


def _as_json(header: LoraHeader) -> Any:
    return {
        "name": header.name,
        "layers": header.layers,
        "kinds": header.kinds,
        "ranks": header.ranks,
        "text_encoder_matrices": len(header.text_encoder),
        "others": header.others,
        "metadata": header.metadata,
    }
