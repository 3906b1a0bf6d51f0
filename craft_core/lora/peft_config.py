"""What diffusers >= 0.35 says about a LoRA's scales beside its tensors.

PEFT keeps alpha in its configuration, not in the tensors. diffusers stores that configuration
as JSON in the safetensors metadata, under "lora_adapter_metadata": with the component in front
of every entry for a pipeline ("unet.lora_alpha"), bare for a single model ("lora_alpha").
kohya's "ss_network_alpha" only informs; its files hold alpha tensors.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from ..errors import CraftError
from ..json_text import shallow_json
from .families import is_text_encoder
from .peft_patterns import NotMatched, Patterns

METADATA_KEY = "lora_adapter_metadata"

_MOST_COMPONENTS = 8  # a pipeline has a denoiser, a VAE and up to three text encoders
_LARGEST_RANK = 1 << 20
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
    alpha_pattern: Patterns[float] = field(default_factory=lambda: Patterns({}))
    rank_pattern: Patterns[int] = field(default_factory=lambda: Patterns({}))
    rslora: bool = False

    def stated(self, module: str) -> Stated:
        """What holds for a module; CraftError if its patterns take too many steps to match."""
        try:
            return Stated(
                alpha=self.alpha_pattern.first(module, self.alpha),
                rank=self.rank_pattern.first(module, self.rank),
                rslora=self.rslora,
            )
        except NotMatched as error:
            raise _unreadable(error) from error


def read_peft_configs(metadata: Mapping[str, str]) -> Mapping[str, PeftConfig]:
    """Component -> its configuration; empty without such metadata, CraftError if it is broken."""
    return _configs(metadata[METADATA_KEY]) if METADATA_KEY in metadata else {}


@lru_cache(maxsize=1)  # a file is looked at from several sides, one after another
def _configs(text: str) -> Mapping[str, PeftConfig]:
    try:
        entries = shallow_json(text)
        fields: dict[str, dict[str, Any]] = {}
        for name, value in entries.items():
            component, _, entry = name.rpartition(".")
            if entry in _FIELDS and value is not None:
                fields.setdefault(component, {})[entry] = value
        if len(fields) > _MOST_COMPONENTS:
            raise ValueError(
                f"it speaks of {len(fields)} models, at most {_MOST_COMPONENTS} make one"
            )
        return {component: _config(entry) for component, entry in fields.items()}
    except (ValueError, TypeError, AttributeError, OverflowError) as error:
        raise _unreadable(error) from error


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


def _unreadable(error: Exception) -> CraftError:
    return CraftError(
        f"The metadata entry {METADATA_KEY} cannot be read ({_short(error)})",
        "It holds the LoRA's alpha values as diffusers writes them, in JSON; patterns are names of "
        "modules, with alternatives and wildcards but no repeated groups",
        "Save the LoRA again, or remove that entry if the file has .alpha tensors",
    )


def _short(error: Exception, most: int = 300) -> str:
    text = str(error)
    return text if len(text) <= most else f"{text[:most]}..."


def _config(entry: Mapping[str, Any]) -> PeftConfig:
    alphas, ranks = dict(entry.get("alpha_pattern", {})), dict(entry.get("rank_pattern", {}))
    return PeftConfig(
        alpha=_alpha(entry["lora_alpha"]) if "lora_alpha" in entry else None,
        rank=_rank(entry["r"]) if "r" in entry else None,
        alpha_pattern=Patterns({name: _alpha(value) for name, value in alphas.items()}),
        rank_pattern=Patterns({name: _rank(value) for name, value in ranks.items()}),
        rslora=bool(entry.get("use_rslora", False)),
    )


def _alpha(value: Any) -> float:
    alpha = float(value)
    if not math.isfinite(alpha):
        raise ValueError(f"an alpha is {alpha}")
    return alpha


def _rank(value: Any) -> int:
    rank = int(value)
    if not 1 <= rank <= _LARGEST_RANK:
        raise ValueError(f"a rank is {value}, and not from 1 to {_LARGEST_RANK}")
    return rank
