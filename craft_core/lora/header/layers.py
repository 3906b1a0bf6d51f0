"""What the header of a LoRA file tells: its layers, kinds and ranks. The numbers are not read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ...errors import CraftError
from ...tensor_file import header_of
from ..families import is_text_encoder
from ..formats import KINDS


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


def read_lora_header(path: Path) -> LoraHeader:
    """CraftError for anything but a safetensors file with a whole header."""
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
