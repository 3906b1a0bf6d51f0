"""Name an input of a prompt as users do, and give it a value written as text.

A node is named by its id, by the title the page shows, or by its type; an input by its name. The
further inputs of a list's chosen entry are written with a dot (`method.alpha`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ..craft_core.errors import CraftError, listed
from .answers import NoJson, parse_json
from .progress import title_of
from .widgets import (
    DYNAMIC_COMBO,
    WIDGETS,
    Json,
    all_inputs,
    boxed,
    choices_of,
    chosen_inputs,
    default_of,
    kind_of,
    options_of,
    plain_file_name,
    same_files,
    with_nested,
)

_SHOWN = 12  # names in a message
_LONGEST_NUMBER = 300  # characters
NUMBERS = {"INT": "a whole number", "FLOAT": "a number"}
TRUTH = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


@dataclass(frozen=True)
class NodeInput:
    """One input of one node of a prompt."""

    node: str
    input: str


class Inputs:
    """The inputs of a prompt that take values, for a server with these nodes."""

    def __init__(self, prompt: Json, object_info: Json) -> None:
        self.prompt, self._info = prompt, object_info
        self._possible = {node: dict(self._every(node)) for node in prompt}

    def _every(self, node: str) -> Iterator[tuple[str, Any]]:
        """Name and schema (None: unknown) of what may be set, whatever is chosen in the lists."""
        info = self._info.get(self.prompt[node]["class_type"], {})
        specs = dict(with_nested(all_inputs(info)))
        yield from ((name, spec) for name, spec in specs.items() if kind_of(spec) in WIDGETS)
        for name, value in self.prompt[node]["inputs"].items():
            if name not in specs and not isinstance(value, list):
                yield name, None

    def read(self, assignment: str) -> tuple[NodeInput, str]:
        """What `NODE.INPUT=VALUE` or `INPUT=VALUE` sets, and the value's text."""
        name, equals, text = assignment.partition("=")
        if not equals or not name:
            raise CraftError(
                f"{assignment!r} is not of the form NODE.INPUT=VALUE",
                "NODE is a node's id, title or type",
                "Write for example KSampler.steps=20",
            )
        return self.find(name), text

    def find(self, name: str) -> NodeInput:
        """The one input that a name means, written as NODE.INPUT or as INPUT alone."""
        bare = "." not in name or any(name in names for names in self._possible.values())
        return self.find_plain(name) if bare else self.find_in_node(name)

    def find_in_node(self, address: str) -> NodeInput:
        """The target of `NODE.INPUT`; CraftError where there is none, or more than one."""
        cuts = [at for at, letter in enumerate(address) if letter == "."]
        parts = [(address[:at], address[at + 1 :]) for at in cuts]
        called: list[str] = []
        for name_of in (lambda node: node, self._title, self._type):
            nodes = [(node, name) for node in self.prompt for left, name in parts
                     if name_of(node) == left]  # fmt: skip
            called += [node for node, _ in nodes]
            found = [NodeInput(node, name) for node, name in nodes if name in self._possible[node]]
            if found:
                return self._the_one(address, found)
        if called:
            raise CraftError(
                f"{address!r}: {self._named(called[0])} has no such input",
                f"It has {listed(self._possible[called[0]], _SHOWN)}",
                "Name one of them",
            )
        raise CraftError(
            f"{address!r}: no node is called {parts[0][0]!r}",
            f"The workflow has {listed((self._named(node) for node in self.prompt), _SHOWN)}",
            "Name one of them by its id, title or type",
        )

    def find_plain(self, name: str) -> NodeInput:
        """The one input that a bare name means: `seed` is seed, `content` also content_lora or
        content_name, `alpha` also method.alpha; inputs that are linked are passed over, and those
        of entries that are not chosen come last."""
        free = [
            NodeInput(node, one)
            for node, names in self._possible.items()
            for one in names
            if not isinstance(self.prompt[node]["inputs"].get(one), list)
        ]
        shown = [one for one in free if one.input in self.prompt[one.node]["inputs"]]
        meanings = (
            lambda one: one == name,
            lambda one: one == f"{name}_lora",
            lambda one: one == f"{name}_name",
            lambda one: one.rpartition(".")[2] == name,
        )
        for targets in (shown, free):
            for means in meanings:
                found = [target for target in targets if means(target.input)]
                if found:
                    return self._the_one(name, found)
        raise CraftError(
            f"No input is called {name!r}",
            f"The workflow has {listed(sorted({target.input for target in free}), _SHOWN)}",
            "Name one of them, or a node's input as NODE.INPUT",
        )

    def has(self, target: NodeInput) -> bool:
        """Whether the node has the input, or the prompt has it there."""
        return target.input in self._possible[target.node]

    def spec(self, target: NodeInput) -> Any:
        """The schema of an input; None where the server has none."""
        return self._possible[target.node][target.input]

    def _the_one(self, given: str, found: list[NodeInput]) -> NodeInput:
        if len(found) == 1:
            return found[0]
        names = (f"{one.node}.{one.input} ({self._title(one.node)})" for one in found)
        raise CraftError(
            f"{given!r} may mean {len(found)} inputs",
            f"They are {listed(names, _SHOWN)}",
            "Name the one you mean by its node's id",
        )

    def _title(self, node: str) -> str:
        """What the page shows: the node's own title, else the display name of its type."""
        title = title_of(self.prompt[node])
        shown = self._info.get(title, {}).get("display_name")
        return shown if shown and title == self._type(node) else title

    def _type(self, node: str) -> str:
        return self.prompt[node]["class_type"]

    def _named(self, node: str) -> str:
        return f"{node} ({self._title(node)})"

    def with_values(self, values: dict[NodeInput, str]) -> Json:
        """The prompt with these values; entries of lists are set before the inputs they bring.

        What is not set is shared with the prompt: of many jobs, each takes what differs.
        """
        touched = {target.node for target in values}
        prompt = {
            node: one | {"inputs": dict(one["inputs"])} if node in touched else one
            for node, one in self.prompt.items()
        }
        for target in sorted(values, key=lambda one: one.input.count(".")):
            inputs = prompt[target.node]["inputs"]
            spec = self.spec(target)
            if "." in target.input and spec is not None:
                self._require_chosen(target, inputs)
            value = typed(f"{self._named(target.node)}.{target.input}", spec, values[target])
            if spec is not None and kind_of(spec) == DYNAMIC_COMBO:
                _choose(inputs, target.input, spec, value)
            inputs[target.input] = value
        return prompt

    def _require_chosen(self, target: NodeInput, inputs: Json) -> None:
        outer = target.input.rpartition(".")[0]
        spec = self.spec(NodeInput(target.node, outer))
        names = [
            f"{outer}.{name}" for name, _ in chosen_inputs(options_of(spec), inputs.get(outer))
        ]
        if target.input not in names:
            raise CraftError(
                f"{self._named(target.node)}.{target.input} is given, and {outer} is "
                f"{inputs.get(outer)!r}",
                f"That has {listed(names, _SHOWN)}" if names else "That has no inputs of its own",
                f"Set {outer} to an entry that has it, or leave it out",
            )


def _choose(inputs: Json, name: str, spec: Any, key: Any) -> None:
    """Choose a list's entry: remove the former entry's inputs, set the new one's to their defaults.

    An input that both have keeps its value or link.
    """
    if inputs.get(name) == key:
        return
    inner = {f"{name}.{own}": one for own, one in chosen_inputs(options_of(spec), key)}
    for old in [one for one in inputs if one.startswith(f"{name}.") and one not in inner]:
        del inputs[old]
    for own, one in inner.items():
        if own in inputs or kind_of(one) not in WIDGETS:
            continue
        value = default_of(one)
        if kind_of(one) == DYNAMIC_COMBO:
            _choose(inputs, own, one, value)
        inputs[own] = boxed(value)


def typed(name: str, spec: Any, text: str) -> Any:
    """The value that `text` stands for in an input of this schema; the server checks ranges.

    A file in a list may be named with either slash, and without its folder and its ending, if only
    one entry fits. An entry that is not in the list stays as it is: the server refuses it in its
    own words.
    """
    kind = "" if spec is None else kind_of(spec)
    if kind in NUMBERS:
        return _number(name, kind, text)
    if kind == "BOOLEAN":
        if text.lower() not in TRUTH:
            raise CraftError(f"{name} = {text!r}", "It is true or false", "Give one of the two")
        return TRUTH[text.lower()]
    if kind in ("COMBO", DYNAMIC_COMBO):
        return _entry(name, choices_of(spec), text)
    if kind in ("STRING", "MARKDOWN", "TEXTAREA", "COLOR"):
        return text
    try:
        return boxed(parse_json(text))
    except NoJson:
        return text


def _number(name: str, kind: str, text: str) -> int | float:
    try:
        value = int(text[:_LONGEST_NUMBER]) if kind == "INT" else float(text)
    except ValueError:
        value = math.nan
    if len(text) > _LONGEST_NUMBER or not math.isfinite(value):
        raise CraftError(f"{name} = {text!r}", f"It takes {NUMBERS[kind]}", "Give one")
    return value


def _entry(name: str, choices: list[Any], text: str) -> Any:
    found = same_files(text, choices) or [
        one for one in choices if plain_file_name(text) in _short_names(str(one))
    ]
    if len(found) > 1:
        raise CraftError(
            f"{name} = {text!r} may mean {len(found)} entries",
            f"They are {listed(map(str, found), _SHOWN)}",
            "Give the whole name of one",
        )
    return found[0] if found else text


def _short_names(entry: str) -> set[str]:
    entry = plain_file_name(entry)
    file = entry.rpartition("/")[2]
    return {file, entry.rpartition(".")[0], file.rpartition(".")[0]} - {""}
