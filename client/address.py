"""Name an input of a prompt as users do, and give it a value written as text.

A node is named by its id, by the title the page shows, or by its type; an input by its name. The
further inputs of a list's chosen entry are written with a dot (`method.alpha`).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from ..craft_core.errors import CraftError, listed
from .answers import NoJson, parse_json
from .progress import title_of
from .widgets import (
    DYNAMIC_COMBO,
    WIDGETS,
    FileNames,
    Json,
    all_inputs,
    boxed,
    choices_of,
    chosen_inputs,
    default_of,
    kind_of,
    options_of,
    plain_file_name,
    with_nested,
)

_SHOWN = 12  # names in a message
_COUNTED = 1000  # inputs that a name may mean, which are counted
_LONGEST_NUMBER = 300  # characters
LISTS = ("COMBO", DYNAMIC_COMBO)
NUMBERS = {"INT": "a whole number", "FLOAT": "a number"}
TRUTH = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


@dataclass(frozen=True)
class NodeInput:
    """One input of one node of a prompt."""

    node: str
    input: str


@dataclass(frozen=True)
class _Kind:
    """A type of node in a prompt: the inputs of the server's schema, those of them that are
    widgets, the nodes, and how many of these have each widget linked."""

    known: frozenset[str]
    widgets: Json
    nodes: list[str]
    linked: Counter[str]


class Inputs:
    """The inputs of a prompt that take values, for a server with these nodes."""

    def __init__(self, prompt: Json, object_info: Json) -> None:
        self.prompt, self._info = prompt, object_info
        self._lists: dict[int, _Entries] = {}  # by the id of the schema that has them
        self._values: dict[tuple[NodeInput, str], Any] = {}
        self._kinds: dict[str, _Kind] = {}
        self._given: dict[str, list[str]] = {}  # input -> the nodes that have a value in it
        for node, one in prompt.items():
            kind = self._kind_of(one["class_type"])
            kind.nodes.append(node)
            for name, value in one["inputs"].items():
                if isinstance(value, list):
                    kind.linked[name] += 1
                elif name in kind.widgets or name not in kind.known:
                    self._given.setdefault(name, []).append(node)

    def _kind_of(self, name: str) -> _Kind:
        if name not in self._kinds:
            specs = dict(with_nested(all_inputs(self._info.get(name, {}))))
            widgets = {own: spec for own, spec in specs.items() if kind_of(spec) in WIDGETS}
            self._kinds[name] = _Kind(frozenset(specs), widgets, [], Counter())
        return self._kinds[name]

    def _names(self, node: str) -> Iterator[str]:
        """What may be set, whatever is chosen in the lists."""
        widgets = self._kinds[self._type(node)].widgets
        yield from widgets
        given = self.prompt[node]["inputs"]
        yield from (one for one in given if one not in widgets and self._is_there(node, one))

    def _is_there(self, node: str, name: str) -> bool:
        """Whether a node has an input that takes values; one without a schema where it has none
        from another node."""
        kind, given = self._kinds[self._type(node)], self.prompt[node]["inputs"]
        if name in kind.known or name not in given:
            return name in kind.widgets
        return not isinstance(given[name], list)

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
        in_schema = any(name in kind.widgets for kind in self._kinds.values())
        bare = "." not in name or name in self._given or in_schema
        return self.find_plain(name) if bare else self.find_in_node(name)

    def find_in_node(self, address: str) -> NodeInput:
        """The target of `NODE.INPUT`; CraftError where there is none, or more than one."""
        cuts = [at for at, letter in enumerate(address) if letter == "."]
        parts = {address[:at]: address[at + 1 :] for at in cuts}
        called = None
        for name_of in (lambda node: node, self._title, self._type):
            nodes = [node for node in self.prompt if name_of(node) in parts]
            called = called or next(iter(nodes), None)
            names = ((node, parts[name_of(node)]) for node in nodes)
            found = [NodeInput(node, name) for node, name in names if self._is_there(node, name)]
            if found:
                return self._the_one(address, found)
        if called is not None:
            raise CraftError(
                f"{address!r}: {self._named(called)} has no such input",
                f"It has {listed(self._names(called), _SHOWN)}",
                "Name one of them",
            )
        raise CraftError(
            f"{address!r}: no node is called {next(iter(parts))!r}",
            f"The workflow has {listed((self._named(node) for node in self.prompt), _SHOWN)}",
            "Name one of them by its id, title or type",
        )

    def find_plain(self, name: str) -> NodeInput:
        """The one input that a bare name means: `seed` is seed, `content` also content_lora or
        content_name, `alpha` also method.alpha; inputs that are linked are passed over, and those
        of entries that are not chosen come last."""
        meanings = (
            lambda one: one == name,
            lambda one: one == f"{name}_lora",
            lambda one: one == f"{name}_name",
            lambda one: one.rpartition(".")[2] == name,
        )
        for targets in (self._shown, self._free):
            for means in meanings:
                found = list(islice(targets(means), _COUNTED + 1))
                if found:
                    return self._the_one(name, found)
        unlinked = {one for kind in self._kinds.values() for one in kind.widgets
                    if kind.linked[one] < len(kind.nodes)}  # fmt: skip
        raise CraftError(
            f"No input is called {name!r}",
            f"The workflow has {listed(sorted(unlinked.union(self._given)), _SHOWN)}",
            "Name one of them, or a node's input as NODE.INPUT",
        )

    def _shown(self, means: Callable[[str], bool]) -> Iterator[NodeInput]:
        """The inputs with a value that have such a name."""
        for name, nodes in self._given.items():
            if means(name):
                yield from (NodeInput(node, name) for node in nodes)

    def _free(self, means: Callable[[str], bool]) -> Iterator[NodeInput]:
        """Those of the schemas, where no link is; also what entries bring that are not chosen."""
        for kind in self._kinds.values():
            names = [one for one in kind.widgets if means(one)]
            for node in kind.nodes if names else ():
                given = self.prompt[node]["inputs"]
                yield from (NodeInput(node, one) for one in names
                            if not isinstance(given.get(one), list))  # fmt: skip

    def has(self, target: NodeInput) -> bool:
        """Whether the node has the input, or the prompt has it there."""
        return self._is_there(target.node, target.input)

    def spec(self, target: NodeInput) -> Any:
        """The schema of an input; None where the server has none."""
        return self._kinds[self._type(target.node)].widgets.get(target.input)

    def _the_one(self, given: str, found: list[NodeInput]) -> NodeInput:
        if len(found) == 1:
            return found[0]
        names = (f"{one.node}.{one.input} ({self._title(one.node)})" for one in found)
        many = len(found) if len(found) <= _COUNTED else f"more than {_COUNTED}"
        raise CraftError(
            f"{given!r} may mean {many} inputs",
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
            value = self._value(target, values[target])
            if spec is not None and kind_of(spec) == DYNAMIC_COMBO:
                _choose(inputs, target.input, spec, value)
            inputs[target.input] = value
        return prompt

    def _value(self, target: NodeInput, text: str) -> Any:
        """The value of a text, found once for all jobs that have it."""
        if (target, text) not in self._values:
            name, spec = f"{self._named(target.node)}.{target.input}", self.spec(target)
            if id(spec) not in self._lists and spec is not None and kind_of(spec) in LISTS:
                self._lists[id(spec)] = _Entries(choices_of(spec))
            self._values[target, text] = typed(name, spec, text, self._lists.get(id(spec)))
        return self._values[target, text]

    def _require_chosen(self, target: NodeInput, inputs: Json) -> None:
        outer = target.input.rpartition(".")[0]
        spec = self.spec(NodeInput(target.node, outer))
        if spec is None or kind_of(spec) != DYNAMIC_COMBO:  # the input's own name has a dot
            return
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
    inner = _brought(name, spec, key)
    for old in [one for one in inputs if one.startswith(f"{name}.") and one not in inner]:
        del inputs[old]
    _fill(inputs, inner)


def _brought(name: str, spec: Any, key: Any) -> Json:
    """The schemas of what an entry of a list brings, under the names that prompts have."""
    return {f"{name}.{own}": one for own, one in chosen_inputs(options_of(spec), key)}


def _fill(inputs: Json, schemas: Json) -> None:
    """Set what is not there to its default, with what a default entry brings."""
    for name, spec in schemas.items():
        if name in inputs or kind_of(spec) not in WIDGETS:
            continue
        value = default_of(spec)
        if kind_of(spec) == DYNAMIC_COMBO:
            _fill(inputs, _brought(name, spec, value))
        inputs[name] = boxed(value)


class _Entries:
    """The entries of a list, by what users write for them."""

    def __init__(self, entries: list[Any]) -> None:
        self._files = FileNames(entries)
        self._short: dict[str, list[Any]] = {}
        for one in entries:
            for name in _short_names(str(one)):
                self._short.setdefault(name, []).append(one)

    def meant_by(self, text: str) -> list[Any]:
        return self._files.same(text) or self._short.get(plain_file_name(text), [])


def typed(name: str, spec: Any, text: str, entries: _Entries | None = None) -> Any:
    """The value that `text` stands for in an input of this schema; the server checks ranges.

    A file in a list may be named with either slash, and without its folder and its ending, if only
    one entry fits. An entry that is not in the list stays as it is: the server refuses it in its
    own words. entries: those of the list, where they are at hand.
    """
    kind = "" if spec is None else kind_of(spec)
    if kind in NUMBERS:
        return _number(name, kind, text)
    if kind == "BOOLEAN":
        if text.lower() not in TRUTH:
            raise CraftError(f"{name} = {text!r}", "It is true or false", "Give one of the two")
        return TRUTH[text.lower()]
    if kind in LISTS:
        return _entry(name, entries or _Entries(choices_of(spec)), text)
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


def _entry(name: str, entries: _Entries, text: str) -> Any:
    found = entries.meant_by(text)
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
