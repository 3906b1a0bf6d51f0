"""What diffusers >= 0.35 says about a LoRA's scales beside its tensors.

PEFT keeps alpha in its configuration, not in the tensors. diffusers stores that configuration
as JSON in the safetensors metadata, under "lora_adapter_metadata": with the component in front
of every entry for a pipeline ("unet.lora_alpha"), bare for a single model ("lora_alpha").
kohya's "ss_network_alpha" only informs; its files hold alpha tensors.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from ..errors import CraftError
from .families import is_text_encoder

METADATA_KEY = "lora_adapter_metadata"

_Value = TypeVar("_Value")

_FIELDS = ("r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora")
_DENOISERS = ("", "unet", "transformer")
_FLAT_STEMS = ("lora_", "lycoris_")  # kohya and LyCORIS names, which PEFT does not write


@dataclass(frozen=True)
class Stated:
    """What a file's metadata states about one layer; None where it is silent."""

    alpha: float | None = None
    rank: int | None = None
    rslora: bool = False


@dataclass(frozen=True)
class PeftConfig:
    """The LoRA configuration of one component ("unet", "transformer", or "" for a bare one)."""

    alpha: float | None = None
    rank: int | None = None
    alpha_pattern: Mapping[str, float] = field(default_factory=dict)
    rank_pattern: Mapping[str, int] = field(default_factory=dict)
    rslora: bool = False

    def stated(self, module: str) -> Stated:
        """What holds for a module; a pattern is a regular expression for the end of its name."""
        return Stated(
            alpha=_first_match(self.alpha_pattern, module, self.alpha),
            rank=_first_match(self.rank_pattern, module, self.rank),
            rslora=self.rslora,
        )


def read_peft_configs(metadata: Mapping[str, str]) -> dict[str, PeftConfig]:
    """Component -> its configuration; empty without such metadata, CraftError if it is broken."""
    if METADATA_KEY not in metadata:
        return {}
    try:
        entries = json.loads(metadata[METADATA_KEY])
        fields: dict[str, dict[str, Any]] = {}
        for name, value in entries.items():
            component, _, entry = name.rpartition(".")
            if entry in _FIELDS and value is not None:
                fields.setdefault(component, {})[entry] = value
        return {component: _config(entry) for component, entry in fields.items()}
    except (ValueError, TypeError, AttributeError, re.error) as error:
        raise CraftError(
            f"The metadata entry {METADATA_KEY} cannot be read ({error})",
            "It holds the LoRA's alpha values as diffusers writes them, in JSON",
            "Save the LoRA again, or remove that entry if the file has .alpha tensors",
        ) from error


def stated_for(configs: Mapping[str, PeftConfig], stem: str) -> Stated:
    """What the metadata states about the layer a stem names; nothing for kohya's flat names.

    A stem that names no component of the metadata belongs to the denoiser, unless it is a text
    encoder's.
    """
    if stem.startswith(_FLAT_STEMS):
        return Stated()
    component, dot, module = stem.partition(".")
    if dot and component in configs:
        return configs[component].stated(module)
    if is_text_encoder(stem):
        return Stated()
    denoiser = next((configs[name] for name in _DENOISERS if name in configs), None)
    return denoiser.stated(stem) if denoiser else Stated()


def _config(entry: Mapping[str, Any]) -> PeftConfig:
    patterns = {name: dict(entry.get(f"{name}_pattern", {})) for name in ("alpha", "rank")}
    for pattern in (*patterns["alpha"], *patterns["rank"]):
        re.compile(pattern)
    return PeftConfig(
        alpha=_alpha(entry["lora_alpha"]) if "lora_alpha" in entry else None,
        rank=_rank(entry["r"]) if "r" in entry else None,
        alpha_pattern={name: _alpha(value) for name, value in patterns["alpha"].items()},
        rank_pattern={name: _rank(value) for name, value in patterns["rank"].items()},
        rslora=bool(entry.get("use_rslora", False)),
    )


def _alpha(value: Any) -> float:
    alpha = float(value)
    if not math.isfinite(alpha):
        raise ValueError(f"an alpha is {alpha}")
    return alpha


def _rank(value: Any) -> int:
    rank = int(value)
    if rank < 1:
        raise ValueError(f"a rank is {rank}")
    return rank


def _first_match(
    patterns: Mapping[str, _Value], module: str, default: _Value | None
) -> _Value | None:
    for pattern, value in patterns.items():
        if re.match(rf"(?:.*\.)?(?:{pattern})$", module):
            return value
    return default
