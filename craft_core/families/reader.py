"""Reads the data files of the families."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Literal

_FOLDER = Path(__file__).parent
_ORDER = ("unet", "picture", "video", "rare", "other")


@dataclass(frozen=True)
class FamilyPreset:
    """A split of a family's layers into content and style, as routing.presets has them.

    source: the paper or release it is from, or "Ours".
    """

    key: str
    label: str
    source: str
    content: tuple[str, ...] = ()
    style: tuple[str, ...] = ()
    rule: Literal["patterns", "resolution"] = "patterns"


@dataclass(frozen=True)
class Family:
    """key: the file's name. label: what people call it. classes: of comfy/supported_models.py, the
    one that stands for it first. looks_like: what its layers' names alone can tell, the same for
    families whose layers have the same names. blocks: patterns of what its numbered blocks are
    called, without the number: a training's layers are in them. told_by: pattern of such names, in
    one of these families; those of asked_after are asked before it. blocks_of: the looks_like of a
    family whose blocks it has. names: those that its LoRA files come in. latent: what a picture
    starts from: the host's node of an empty latent, and the width and height that the model was
    made for; None where that is not known. special: what a user should know. mixed_rows: patterns
    of layers whose rows are not one conditioning after the other, where asymmetric guidance is
    refused. mixed_in: network classes where that holds of every layer. before_sampling: beginnings
    of layers that the host runs once before it samples, where no branch acts. untested: class ->
    why it is not in the tests. untrained: class -> why pictures with captions teach it nothing.
    """

    key: str
    label: str
    classes: tuple[str, ...]
    looks_like: str
    blocks: tuple[str, ...] = ()
    told_by: str = ""
    asked_after: tuple[str, ...] = ()
    blocks_of: str = ""
    names: tuple[str, ...] = ()
    latent: tuple[str, int, int] | None = None
    special: str = ""
    presets: tuple[FamilyPreset, ...] = ()
    mixed_rows: tuple[str, ...] = ()
    mixed_in: tuple[str, ...] = ()
    before_sampling: tuple[str, ...] = ()
    untested: Mapping[str, str] = field(default_factory=dict)
    untrained: Mapping[str, str] = field(default_factory=dict)


def _read(file: Path) -> Family:
    entries = json.loads(file.read_text("utf-8"))
    presets = tuple(FamilyPreset(**_tuples(one)) for one in entries.pop("presets", ()))
    return Family(key=file.stem, presets=presets, **_tuples(entries))


def _tuples(entries: dict) -> dict:
    return {name: tuple(v) if isinstance(v, list) else v for name, v in entries.items()}


def _all() -> dict[str, Family]:
    files = [file for room in _ORDER for file in sorted((_FOLDER / room).glob("*.json"))]
    return {file.stem: _read(file) for file in files}


def _asked(families: Mapping[str, Family]) -> tuple[Family, ...]:
    """Those with a pattern, in the order in which names are compared with them."""
    before = {key: one.asked_after for key, one in families.items()}
    order = TopologicalSorter(before).static_order()
    return tuple(families[key] for key in order if families[key].told_by)


FAMILIES: Mapping[str, Family] = _all()
ASKED = _asked(FAMILIES)
PRESETS = tuple(preset for family in FAMILIES.values() for preset in family.presets)
_END = r"(\.|\Z)"


def _beginnings(patterns: Iterable[str], end: str) -> re.Pattern[str]:
    """Paths that begin with one of the patterns, in which * stands for one component."""
    ways = dict.fromkeys(re.escape(one).replace(r"\*", "[^.]*") + end for one in patterns)
    return re.compile("|".join(ways))


_MIXED = _beginnings((one for own in FAMILIES.values() for one in own.mixed_rows), _END)
_BLOCKS = _beginnings((one for own in FAMILIES.values() for one in own.blocks), rf"\.\d+{_END}")
_MIXED_IN = frozenset(one for family in FAMILIES.values() for one in family.mixed_in)
_EARLY = re.compile(
    "|".join(
        rf"{re.escape(one)}([._]|\Z)"
        for family in FAMILIES.values()
        for one in family.before_sampling
    )
)


UNTRAINED = {kind: why for family in FAMILIES.values() for kind, why in family.untrained.items()}
"""Class -> why no training takes a model of it."""


def mixes_rows(path: str, network: str = "") -> bool:
    """Whether the rows of that layer are not one conditioning after the other. network: the class
    of the diffusion model."""
    return network in _MIXED_IN or _MIXED.match(path) is not None


def in_block(path: str) -> bool:
    """Whether that layer is in one of the numbered blocks that make up a model of some family."""
    return _BLOCKS.match(path) is not None


def runs_early(path: str) -> bool:
    """Whether the host runs that layer once, before it samples. path: or its plain name
    (lora/without_model.py)."""
    return _EARLY.match(path) is not None


NO_DENOISER: Mapping[str, str] = json.loads((_FOLDER / "no_denoiser.json").read_text("utf-8"))
"""Classes of the host that sample nothing, and what they do."""
