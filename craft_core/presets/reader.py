"""Reads a preset: of the files beside this one, of the page, or of Find Best Settings.

    {"method": {"method": "k_lora", "pattern": "s*"}, "layer_sets": "auto",
     "content_strength": 1.0, "style_strength": 0.7,
     "schedule": {"shape": "cosine", "content_floor": 0.5, "style_floor": 0.5},
     "guidance": {"guidance": "role", "weight": 1.5}, "cfg": 3.0, "seed": 7}

Each entry may be left out; what is not written of a method, a shape or a rule has its default.
layer_sets is a key or lines of patterns. A schedule may be a shape alone, "cosine". guidance is a
rule's key with its weights. The other entries that Find Best Settings writes say how the preset
was found, and set nothing; so does `follows`, in a shipped preset.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import CraftError, listed
from ..fusion import FUSION
from ..guidance import GUIDANCE
from ..registry import Method, Registry
from ..routing.layer_sets import parse_layer_sets
from ..routing.presets import PRESETS
from ..schedule import SHAPES
from ..schedule.curve import read_points
from ..schedule.schedule import Schedule

STRONGEST, LARGEST_CFG = 10.0, 100.0  # of the nodes' inputs
LARGEST_SEED = (1 << 64) - 1
_BY_SWITCH = "acfg/cfg"  # the entry of the nodes' menu that leaves guidance to `asymmetric`
_SWITCHED = {"acfg": True, "cfg": False}
_FLOORS = ("content_floor", "style_floor")
_FOUND_BY = {
    "prompt", "content_lora", "style_lora", "steps", "sampler_name", "scheduler", "first_seed",
    "scores", "content_weight", "gain_over_first", "first", "frontier", "stopped_after",
    "follows",
}  # fmt: skip
_KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}


@dataclass(frozen=True)
class NodeValues:
    """What a preset sets, by the names of the nodes' inputs, a menu before what its entry brings.

    router: of the Content/Style LoRA Router. schedule: of Timestep Schedule. guidance: of ACFG
    KSampler and ACFG Guider. sampler: of a sampler with a seed. What is not there stays as it is.
    """

    router: Mapping[str, Any] = field(default_factory=dict)
    schedule: Mapping[str, Any] = field(default_factory=dict)
    guidance: Mapping[str, Any] = field(default_factory=dict)
    sampler: Mapping[str, Any] = field(default_factory=dict)


def node_values(preset: Any) -> NodeValues:
    """The values of a preset, as JSON gives it. CraftError where it sets nothing, for an entry that
    no preset has, and for a value that the nodes would refuse."""
    if not isinstance(preset, Mapping):
        raise _no_preset(f"It is {type(preset).__name__}, not an object with entries")
    unknown = [name for name in preset if name not in _READ and name not in _FOUND_BY]
    if unknown:
        raise _no_preset(f"It has {listed(map(repr, unknown), 5)}")
    parts: dict[str, dict[str, Any]] = {
        "router": {}, "schedule": {}, "guidance": {}, "sampler": {}
    }  # fmt: skip
    for name, (part, read) in _READ.items():
        if name in preset:
            parts[part] |= read(preset[name], name)
    if not any(parts.values()):
        raise _no_preset("It sets nothing")
    return NodeValues(**parts)


def _strength(value: Any, name: str) -> dict[str, Any]:
    return {name: _number(value, name, -STRONGEST, STRONGEST)}


def _cfg(value: Any, name: str) -> dict[str, Any]:
    return {name: _number(value, name, 0.0, LARGEST_CFG)}


def _seed(value: Any, name: str) -> dict[str, Any]:
    if not _is_of(int, value) or not 0 <= value <= LARGEST_SEED:
        raise _wrong(name, value, f"A whole number from 0 to {LARGEST_SEED}")
    return {name: value}


def _layer_sets(value: Any, name: str) -> dict[str, Any]:
    if not isinstance(value, str):
        raise _wrong(name, value, "A key of layer sets, or patterns, one a line")
    parse_layer_sets(value)
    key = value.strip()
    return {name: key} if key in PRESETS else {name: "custom", f"{name}.patterns": value}


def _method(value: Any, name: str) -> dict[str, Any]:
    return _entry(name, *_chosen(value, name, FUSION))


def _guidance(value: Any, name: str) -> dict[str, Any]:
    rule, knobs = _chosen(value, name, GUIDANCE)
    if rule.key in _SWITCHED:
        return {"asymmetric": _SWITCHED[rule.key], name: _BY_SWITCH}
    return _entry(name, rule, knobs)


def _schedule(value: Any, name: str) -> dict[str, Any]:
    given = {"shape": value} if isinstance(value, str) else value
    if not isinstance(given, Mapping):
        raise _wrong(name, value, 'A shape, "cosine", or an object with a shape and its settings')
    own = dict.fromkeys(_FLOORS, 0.0) | {"clock": "steps"}
    own |= {one: given[one] for one in own if one in given}
    for floor in _FLOORS:
        own[floor] = _number(own[floor], floor, 0.0, 1.0)
    if not isinstance(own["clock"], str):
        raise _wrong("clock", own["clock"], _KINDS[str])
    bare = {one: setting for one, setting in given.items() if one not in own}
    shape, knobs = _chosen(bare, "shape", SHAPES)
    Schedule(shape.key, knobs, **own)
    return {**_entry("shape", shape, knobs), **own}


def _chosen(value: Any, name: str, registry: Registry) -> tuple[Method, dict[str, Any]]:
    """(what is chosen, all its knobs)"""
    if not isinstance(value, Mapping) or not isinstance(value.get(name), str):
        possible = f'An object such as {{"{name}": "{registry.keys()[0]}"}}, with its settings'
        raise _wrong(name, value, possible)
    method = registry[value[name]]
    kinds = {parameter.name: parameter.type for parameter in method.parameters}
    knobs: dict[str, Any] = {}
    for one, setting in value.items():
        if one == name:
            continue
        kind = kinds.get(one)
        if kind is tuple:
            setting = read_points(setting, one)
        elif kind is not None and not _is_of(kind, setting):
            raise _wrong(f"{method.key}: {one}", setting, _KINDS[kind])
        knobs[one] = float(setting) if kind is float else setting
    return method, method.knobs(knobs)


def _entry(name: str, method: Method, knobs: Mapping[str, Any]) -> dict[str, Any]:
    """A menu's entry and what it brings, as the nodes name their inputs."""
    brought = {f"{name}.{knob}": _as_widget(value) for knob, value in knobs.items()}
    return {name: method.key, **brought}


def _as_widget(value: Any) -> Any:
    """Points as the host's curve editor has them, whose cubic is the core's own."""
    if isinstance(value, tuple):
        return {"points": [list(point) for point in value], "interpolation": "monotone_cubic"}
    return value


def _is_of(kind: type, value: Any) -> bool:
    if isinstance(value, bool) or kind is bool:
        return kind is bool and isinstance(value, bool)
    if kind is float:
        return isinstance(value, int | float) and abs(value) < 1e300  # as large as JSON's integers
    return isinstance(value, kind)


def _number(value: Any, name: str, least: float, most: float) -> float:
    if not _is_of(float, value) or not least <= value <= most:
        raise _wrong(name, value, f"A number from {least:g} to {most:g}")
    return float(value)


_READ: Mapping[str, tuple[str, Callable[[Any, str], dict[str, Any]]]] = {
    "method": ("router", _method),
    "layer_sets": ("router", _layer_sets),
    "content_strength": ("router", _strength),
    "style_strength": ("router", _strength),
    "schedule": ("schedule", _schedule),
    "guidance": ("guidance", _guidance),
    "cfg": ("guidance", _cfg),
    "seed": ("sampler", _seed),
}


def _wrong(name: str, value: Any, possible: str) -> CraftError:
    shown = repr(value)
    return CraftError(
        f"The preset's {name} is {shown[:200]}", f"It can be: {possible}", "Correct it in the file"
    )


def _no_preset(why: str) -> CraftError:
    return CraftError(
        f"This is no preset. {why}",
        f"A preset is a JSON object with any of {', '.join(_READ)}",
        "Give a file that the page has saved, or the preset.json of a search",
    )


SHIPPED: Mapping[str, Mapping[str, Any]] = {
    file.stem: json.loads(file.read_text("utf-8"))
    for file in sorted(Path(__file__).parent.glob("*.json"))
}
"""The presets that come with the pack, by name. `follows`: what their values follow from."""
