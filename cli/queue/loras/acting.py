"""Which LoRAs act in a prompt's sampling, and how strongly, as far as the prompt alone says it.

A Router is read as it reads itself: its dials multiply the further LoRAs of their role, and where
its method goes by markers, a role without one in the prompt is off. What only a run decides has no
strength here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ....client.answers import number
from ....client.facts import LIST, ROWS, SUFFIXES, rows_on
from ..sampling import ApiPrompt, NodeInputs, SamplingFacts, input_value, is_plain, nodes_above

GOES_BY_MARKERS = {
    "craft": True,
    "direct": False,
    "b_lora": True,
    "k_lora": True,
    "est_lora": True,
    "np_lora": True,
    "switch": True,
    "composite": True,
}
"""Whether a role without a marker is off, by fusion method; the methods themselves need torch."""

_ROLES = ("content", "style")
_MARKERS = {"content": re.compile("<[cC]>"), "style": re.compile("<[sS]>")}
_BRANCH, _SAME = "CRAFTLoadLoRABranch", "same"
_OTHER_LOADERS = {  # inputs of a file, and of its dial, of nodes that are not ours
    "lora_name": "strength_model",
    "lora": "strength",
    "content_lora": "content_strength",
    "style_lora": "style_strength",
}
_OURS = "CRAFT"  # how the names of our nodes begin
_MAKES_A_FILE = "save_name"  # an input of our nodes that do
_ABOVE_A_ROUTER = ("model", "second_model", "clip", "lora_stack")
_CHAIN = "branches"
_MERGES_ITS_CHAIN = "CRAFTLearnMerge"

Factor = float | None  # None: only a run knows it


@dataclass(frozen=True)
class _Use:
    """A file in a role of a Router. second: the file for a second MODEL."""

    role: str
    file: Any
    second: Any
    strength: Factor = 1.0


def loras_of(prompt: ApiPrompt, sampling: SamplingFacts) -> dict[str, float | None]:
    """File -> strength, of every LoRA that is not off; nearest first. Of a file that stands in
    several places the strengths are added up. None where only a run knows the strength."""
    found: dict[str, list[Factor]] = {}
    for node in _nodes(prompt, sampling):
        for file, strength in _loras_in(prompt, node):
            if strength != 0 and isinstance(file, str) and file.lower().endswith(SUFFIXES):
                found.setdefault(file, []).append(strength)
    return {file: _sum(strengths) for file, strengths in found.items()}


def _nodes(prompt: ApiPrompt, sampling: SamplingFacts) -> Iterator[Mapping[str, Any]]:
    """Those that sample, and those whose LoRAs may be in their MODEL."""
    own = [node for node in prompt.values() if any(node["inputs"] is one for one in sampling.own)]
    yield from own
    for node in nodes_above(prompt, sampling.model, _links_to_models):
        if not any(node is one for one in own):
            yield node


def _links_to_models(node: Mapping[str, Any]) -> Iterable[Any]:
    """What made a file is not in the MODEL that it goes into."""
    kind, inputs = _kind(node), node["inputs"]
    if kind.startswith(_OURS) and _MAKES_A_FILE in inputs:
        return ()
    names = _ABOVE_A_ROUTER if kind in _READERS else inputs
    return [inputs.get(name) for name in names]


def _links_of_chain(node: Mapping[str, Any]) -> Iterable[Any]:
    kind, inputs = _kind(node), node["inputs"]
    if kind == _MERGES_ITS_CHAIN:
        return ()
    return [inputs.get(_CHAIN)] if kind.startswith(_OURS) else inputs.values()


def _kind(node: Mapping[str, Any]) -> str:
    return str(node.get("class_type", ""))


def _loras_in(prompt: ApiPrompt, node: Mapping[str, Any]) -> Iterator[tuple[Any, Factor]]:
    kind, inputs = _kind(node), node["inputs"]
    if kind in _READERS:
        yield from _READERS[kind](prompt, inputs)
    elif not kind.startswith(_OURS):
        for name, dial in _OTHER_LOADERS.items():
            if isinstance(inputs.get(name), str):
                yield inputs[name], _strength(prompt, inputs, dial)


def _router(prompt: ApiPrompt, inputs: NodeInputs) -> Iterator[tuple[Any, Factor]]:
    return _by_markers(prompt, inputs, [input_value(prompt, inputs, "method")])


def _sweep(prompt: ApiPrompt, inputs: NodeInputs) -> Iterator[tuple[Any, Factor]]:
    """Of all its pictures: a strength that is not the same in each is not known."""
    text = input_value(prompt, inputs, "methods")
    lines = text.splitlines() if isinstance(text, str) else [""]
    written = (line.partition("#")[0].partition(":")[0].strip() for line in lines)
    return _by_markers(prompt, inputs, [method for method in written if method] or [None])


def _fused(prompt: ApiPrompt, inputs: NodeInputs) -> Iterator[tuple[Any, Factor]]:
    """What goes into a file, whose own strength is the loader's."""
    return _pair(prompt, inputs, dict.fromkeys(_ROLES))


def _searched(prompt: ApiPrompt, inputs: NodeInputs) -> Iterator[tuple[Any, Factor]]:
    """Of a node that sets the dials itself."""
    own = {name: value for name, value in inputs.items() if not name.endswith("_strength")}
    return _pair(prompt, own, dict.fromkeys(_ROLES))


_READERS = {
    "CRAFTRouter": _router,
    "CRAFTMethodSweep": _sweep,
    "CRAFTFuseToFile": _fused,
    "CRAFTXYGrid": _searched,
    "CRAFTFindBest": _searched,
}


def _by_markers(
    prompt: ApiPrompt, inputs: NodeInputs, methods: Sequence[Any]
) -> Iterator[tuple[Any, Factor]]:
    text = input_value(prompt, inputs, "prompt")
    by_markers = {GOES_BY_MARKERS.get(method) for method in methods}
    return _pair(prompt, inputs, {role: _gamma(text, role, by_markers) for role in _ROLES})


def _gamma(text: Any, role: str, by_markers: set[bool | None]) -> Factor:
    """gamma of CRAFT-LoRA, Eq. 8. by_markers: whether the methods go by markers."""
    is_marked = bool(_MARKERS[role].search(text)) if isinstance(text, str) else None
    if is_marked or by_markers == {False}:
        return 1.0
    return 0.0 if is_marked is False and by_markers == {True} else None


def _pair(
    prompt: ApiPrompt, inputs: NodeInputs, gammas: Mapping[str, Factor]
) -> Iterator[tuple[Any, Factor]]:
    """The LoRAs of a node that takes a content, a style and further ones. A second MODEL brings
    those that the first has not."""
    dials = {role: _strength(prompt, inputs, f"{role}_strength") for role in _ROLES}
    uses = [*_own(prompt, inputs), *_further(prompt, inputs.get("extra_branches"))]
    acting = [(one, _product(one.strength, dials[one.role], gammas[one.role])) for one in uses]
    first = {one.file for one, strength in acting if strength != 0}
    yield from ((one.file, strength) for one, strength in acting)
    if "second_model" in inputs:
        for one, strength in acting:
            file = one.file if one.second in (None, _SAME) else one.second
            if file not in first:
                yield file, strength


def _own(prompt: ApiPrompt, inputs: NodeInputs) -> Iterator[_Use]:
    for role in _ROLES:
        names = (f"{role}_lora", f"second_{role}_lora")
        file, second = (input_value(prompt, inputs, name) for name in names)
        yield _Use(role, file, second)


def _further(prompt: ApiPrompt, link: Any) -> Iterator[_Use]:
    """Of a chain of Load LoRA Branch and LoRA List."""
    for node in nodes_above(prompt, link, _links_of_chain):
        kind, inputs = _kind(node), node["inputs"]
        if kind == _BRANCH:
            names = ("role", "lora", "second_lora")
            role, *files = (input_value(prompt, inputs, name) for name in names)
            if role in _ROLES:
                yield _Use(role, *files, _strength(prompt, inputs, "strength"))
        elif kind == LIST:
            for row in rows_on(inputs.get(ROWS)):
                if row.get("role") in _ROLES:
                    strength = _number(row.get("strength", 1.0))
                    yield _Use(row["role"], row.get("lora"), row.get("second_lora"), strength)


def _strength(prompt: ApiPrompt, inputs: NodeInputs, name: str) -> Factor:
    return _number(input_value(prompt, inputs, name)) if name in inputs else 1.0


def _number(value: Any) -> Factor:
    return number(value) if is_plain(value) and not isinstance(value, str) else None


def _product(*factors: Factor) -> Factor:
    """0 as soon as one is 0, whatever is not known."""
    product: Factor = 1.0
    for factor in factors:
        if factor == 0:
            return 0.0
        product = None if product is None or factor is None else product * factor
    return product


def _sum(strengths: Sequence[Factor]) -> Factor:
    """None also where they cancel out: in layers where one acts alone, it acts."""
    known = [one for one in strengths if one is not None]
    total = number(round(sum(known), 9)) if len(known) == len(strengths) else 0.0
    return total or None
