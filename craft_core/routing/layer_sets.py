"""Content branches act on one set of layers, style branches on another, and the two are disjoint.

CRAFT-LoRA (2026), arXiv:2602.18936, Sec. 3.4.1: I_c and I_s are disjoint. `all` is the stated
exception: every branch on every layer it adapts.

The text a user edits is a preset's key, or one pattern a line:

    # B-LoRA's two blocks
    content: up_blocks.0.attentions.0
    style: output_blocks.1.1          # the LDM name of up_blocks.0.attentions.1

A pattern is a diffusers or LDM module name, or the beginning of one; it claims every layer below.
Names are matched by component (down_blocks.1 does not claim down_blocks.10). * stands for one whole
component (down_blocks.*.attentions.0), and 0..9 for a component that is one of these numbers, both
ends included (double_blocks.0..9). # starts a comment. A role without a line acts on no layer.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from ..errors import CraftError, listed
from ..lora.keys import unet_diffusers_paths
from ..types import ROLES, LayerShapes, Role
from .auto import no_lora
from .presets import PRESETS, PresetRule
from .resolution import BOUNDARY, LATENT_SIZE, latent_resolutions

_PART = r"(\*|\d+\.\.\d+|[\w-]+)"
_PATTERN = re.compile(rf"{_PART}(\.{_PART})*", re.ASCII)
_BETWEEN = re.compile(r"(?<!\.)\.(?!\.)")  # the dots between components, not those of a range
_RANGE = re.compile(r"(\d+)\.\.(\d+)", re.ASCII)
_DIGITS = 4  # of the largest number in a range
_MOST = 1000  # patterns: no text decides how long it is matched
_LONGEST = 500_000  # letters of all of them
_SYNTAX = (
    "Write one pattern a line, such as content: up_blocks.0.attentions.0 or style: "
    f"double_blocks.0..9, or one preset: {', '.join(PRESETS)}"
)
_QUOTED = 200  # letters of a line quoted in a message

_Below = Mapping[int, Mapping[tuple[str, ...], set[str]]]
"""Number of components -> beginning of a name in so many -> module paths of the layers below it."""


@dataclass(frozen=True)
class LayerSetSpec:
    """What a user's text asks for, before a model is known. Patterns only for rule `patterns`."""

    rule: PresetRule
    content: tuple[str, ...] = ()
    style: tuple[str, ...] = ()

    def patterns(self, role: Role) -> tuple[str, ...]:
        return self.content if role == "content" else self.style


@dataclass(frozen=True)
class LayerSets:
    """Module paths by role.

    unmatched: patterns that claim no layer of this model, as "role: pattern"; of a range the part
    that names nothing of it. overlap: layers in both sets; only `all` has any.
    """

    content: frozenset[str]
    style: frozenset[str]
    unmatched: tuple[str, ...] = ()

    @property
    def overlap(self) -> frozenset[str]:
        return self.content & self.style

    def of(self, roles: Sequence[Role]) -> tuple[frozenset[str], ...]:
        """The sets by branch, as `Routing.layer_sets` holds them."""
        return tuple(self.content if role == "content" else self.style for role in roles)


def parse_layer_sets(text: str) -> LayerSetSpec:
    """Read a preset's key or lines of patterns; CraftError names the line that is neither."""
    key = text.strip()
    if key in PRESETS:
        preset = PRESETS[key]
        return LayerSetSpec(preset.rule, preset.content, preset.style)
    content, style = _roles(text)
    if not content and not style:
        raise CraftError("The layer sets name no layers", _SYNTAX, "Choose a preset to start from")
    return LayerSetSpec("patterns", content, style)


def of_one_role(patterns: str, role: Role) -> str:
    """Patterns without a role, one a line, as the layer sets of a role; "" where there are none."""
    lines = (line.split("#", 1)[0].strip() for line in patterns.splitlines())
    return "\n".join(f"{role}: {line}" for line in lines if line)


def check_patterns(patterns: str) -> None:
    """CraftError where patterns without a role, one a line, cannot be read."""
    text = of_one_role(patterns, "content")
    if text:
        parse_layer_sets(text)


def patterns_of_role(text: str, role: Role, layers: LayerShapes) -> str:
    """A role's part of the layer sets of this model, as patterns without a role, one a line.

    The patterns that the user or the preset gave, less those that claim nothing here; the layers
    themselves for a preset that is a rule. Raises CraftError as `resolve` does.
    """
    spec, sets = parse_layer_sets(text), resolve(text, layers)
    if spec.rule == "patterns":
        found = [p for p in spec.patterns(role) if f"{role}: {p}" not in sets.unmatched]
    else:
        claimed = sets.of([role])[0]
        found = [path for path in layers if path in claimed]
    return "\n".join(found)


def resolve(
    spec: LayerSetSpec | str, layers: LayerShapes, latent_size: int = LATENT_SIZE
) -> LayerSets:
    """The layer sets of a model.

    layers: module path -> weight shape of its linear and convolution layers, in depth order.
    latent_size: for `duolora-prior` only, the side of the latent.
    Raises CraftError if content and style claim the same layer, if a role has patterns and none of
    them claims a layer, or for `auto`, which follows from LoRAs (auto.split_by_energy).
    """
    spec = parse_layer_sets(spec) if isinstance(spec, str) else spec
    if spec.rule == "all":
        return LayerSets(frozenset(layers), frozenset(layers))
    if spec.rule == "auto":
        raise no_lora()
    if spec.rule == "resolution":
        return _by_resolution(layers, latent_size)
    return _by_patterns(spec, layers)


def _roles(text: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    found: dict[str, list[str]] = {role: [] for role in ROLES}
    for number, line in _lines(text):
        role, colon, pattern = (part.strip() for part in line.partition(":"))
        if not colon or role.lower() not in found or not _PATTERN.fullmatch(pattern):
            raise _unreadable(number, line, "")
        for one in _RANGE.finditer(pattern):
            _check_range(number, line, one)
        found[role.lower()].append(pattern)
    return tuple(found["content"]), tuple(found["style"])


def _lines(text: str) -> list[tuple[int, str]]:
    """The lines with something in them beside comments, by their numbers from 1."""
    typed = ((number, line.split("#", 1)[0].strip())
             for number, line in enumerate(text.splitlines(), start=1))  # fmt: skip
    lines = [(number, line) for number, line in typed if line]
    letters = sum(len(line) for _, line in lines)
    if len(lines) > _MOST or letters > _LONGEST:
        given = f"{len(lines)} patterns" if len(lines) > _MOST else f"{letters} letters"
        raise CraftError(
            f"The layer sets have {given}",
            f"They can have {_MOST if len(lines) > _MOST else _LONGEST}",
            "Use * or a range such as double_blocks.0..9 in place of many lines",
        )
    return lines


def _check_range(number: int, line: str, found: re.Match[str]) -> None:
    if max(map(len, found.groups())) > _DIGITS:
        raise _unreadable(number, line, f"the numbers of a range have up to {_DIGITS} digits")
    first, last = map(int, found.groups())
    if first > last:
        raise _unreadable(number, line, f"a range counts up: {last}..{first}")


def _unreadable(number: int, line: str, fault: str) -> CraftError:
    fault = fault or (
        "* may only stand for a whole part between dots, and a range only for numbers: 0..9"
    )
    return CraftError(
        f"Line {number} of the layer sets is {line[:_QUOTED]!r}",
        _SYNTAX,
        f"Correct this line; {fault}",
    )


def _by_resolution(layers: LayerShapes, latent_size: int) -> LayerSets:
    resolutions = latent_resolutions(layers, latent_size)
    content = frozenset(path for path, side in resolutions.items() if side < BOUNDARY)
    style = frozenset(resolutions) - content
    if not content or not style:
        sides = ", ".join(map(str, sorted(set(resolutions.values()))))
        raise CraftError(
            f"With a latent of {latent_size} the layers' resolutions are {sides}: "
            f"no {'style' if content else 'content'} layers",
            f"Layers below {BOUNDARY} are content, the others style",
            "Use another latent size (64 is DuoLoRA's) or another preset",
        )
    return LayerSets(content, style)


def _by_patterns(spec: LayerSetSpec, layers: LayerShapes) -> LayerSets:
    below = _below(_names(layers))
    claimed: dict[Role, frozenset[str]] = {}
    unmatched: list[str] = []
    for role in ROLES:
        matches = {pattern: _claimed(pattern, below) for pattern in spec.patterns(role)}
        claimed[role] = frozenset().union(*matches.values())
        unmatched += [
            f"{role}: {missing}"
            for pattern, paths in matches.items()
            for missing in (_missing(pattern, below) if paths else [pattern])
        ]
        if matches and not claimed[role]:
            raise CraftError(
                f"No {role} pattern matches this model: {listed(matches)}",
                f"It has {listed(_examples(layers))}",
                "Use names of this model, or the preset auto, which fits any model",
            )
    sets = LayerSets(claimed["content"], claimed["style"], tuple(unmatched))
    if sets.overlap:
        shared = [path for path in layers if path in sets.overlap]
        raise CraftError(
            f"{len(shared)} layers are both content and style: {listed(shared)}",
            "The two sets must be disjoint",
            "Narrow one of the patterns, or choose the preset all to lift the restriction",
        )
    return sets


def _names(layers: LayerShapes) -> dict[tuple[str, ...], str]:
    """Every name of every layer, in components -> its module path."""
    paths = {path: path for path in layers} | unet_diffusers_paths(layers)
    return {tuple(name.split(".")): path for name, path in paths.items()}


def _below(names: Mapping[tuple[str, ...], str]) -> _Below:
    found: dict[int, dict[tuple[str, ...], set[str]]] = {}
    for name, path in names.items():
        for depth in range(1, len(name) + 1):
            found.setdefault(depth, {}).setdefault(name[:depth], set()).add(path)
    return found


def _claimed(pattern: str, below: _Below) -> frozenset[str]:
    parts = _BETWEEN.split(pattern)
    fits, beginnings = _fits(parts), below.get(len(parts), {})
    return frozenset().union(*(paths for name, paths in beginnings.items() if fits(name)))


def _fits(parts: Sequence[str]) -> Callable[[tuple[str, ...]], bool]:
    """Whether as many components as there are parts are what the parts say."""
    tests = [(place, _test(part)) for place, part in enumerate(parts) if part != "*"]
    return lambda name: all(test(name[at]) for at, test in tests)


def _test(part: str) -> Callable[[str], bool]:
    found = _RANGE.fullmatch(part)
    if found is None:
        return lambda component: component == part
    first, last = map(int, found.groups())
    return lambda component: _is_number(component) and first <= int(component) <= last


def _is_number(component: str) -> bool:
    return len(component) <= _DIGITS and component.isascii() and component.isdecimal()


def _missing(pattern: str, below: _Below) -> Iterator[str]:
    """The pattern with those numbers of its ranges for which the model has no block at all.

    double_blocks.0..25 of a model with 19 blocks is double_blocks.19..25.
    """
    parts = _BETWEEN.split(pattern)
    for at, part in enumerate(parts):
        found = _RANGE.fullmatch(part)
        if found is None:
            continue
        fits = _fits(parts[: at + 1])
        first, last = map(int, found.groups())
        known = sorted({int(name[at]) for name in below[at + 1] if fits(name)})
        for before, after in pairwise([first - 1, *known, last + 1]):
            if after - before > 1:
                gap = str(before + 1) if after - before == 2 else f"{before + 1}..{after - 1}"
                yield ".".join([*parts[:at], gap, *parts[at + 1 :]])


def _examples(layers: LayerShapes) -> list[str]:
    """The blocks a pattern could name, first to last of each kind."""
    diffusers = unet_diffusers_paths(layers)
    kinds: dict[tuple[str, ...], list[str]] = {}
    for name in diffusers or layers:
        parts = name.split(".")
        numbers = [at for at, part in enumerate(parts[:4]) if part.isdecimal()]
        block = parts[: numbers[-1 if diffusers else 0] + 1] if numbers else parts[:1]
        kind = tuple("" if part.isdecimal() else part for part in block)
        kinds.setdefault(kind, []).append(".".join(block))
    numbered = {kind: blocks for kind, blocks in kinds.items() if "" in kind} or kinds
    return [
        blocks[0] if blocks[0] == blocks[-1] else f"{blocks[0]} to {blocks[-1]}"
        for blocks in numbered.values()
    ]
