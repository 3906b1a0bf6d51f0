"""Methods as functions: a registry reads a signature once; all else is made from that.

A method is a function in a file named after it. Its positional arguments are data; its
keyword-only arguments are the user's knobs, each `Annotated[type, Knob(...)]` with a default.
From that come the node's widgets, command-line flags, range checks, docs tables and the sweep
of the contract tests.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, get_args, get_origin, get_type_hints

from .errors import CraftError
from .messages import UNKNOWN

_BOOLEANS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}


@dataclass(frozen=True)
class Knob:
    """One user setting. Numbers have minimum, maximum and step; texts may have choices.

    advanced: seldom changed; the page folds it away.
    """

    help: str
    minimum: float | None = None
    maximum: float | None = None
    step: float | None = None
    choices: tuple[str, ...] = ()
    advanced: bool = False


@dataclass(frozen=True)
class Parameter:
    name: str
    type: type
    default: Any
    knob: Knob

    def check(self, value: Any, method: str) -> None:
        """Raise CraftError unless value lies in the declared range."""
        knob = self.knob
        if knob.choices:
            if value not in knob.choices:
                raise CraftError(
                    f"{method}: {self.name} = {value!r}",
                    f"It can be one of {', '.join(knob.choices)}",
                    "Choose one of these",
                )
            return
        if knob.minimum is None or knob.maximum is None:
            return
        if not knob.minimum <= value <= knob.maximum:  # also refuses NaN
            raise CraftError(
                f"{method}: {self.name} = {value!r}",
                f"It ranges from {knob.minimum} to {knob.maximum}",
                "Set a value in that range",
            )

    def read(self, text: str, method: str) -> Any:
        """The value that a text denotes, checked; CraftError for a text that denotes none."""
        kinds = {int: "a whole number", float: "a number", bool: "true or false"}
        try:
            value = _BOOLEANS[text.lower()] if self.type is bool else self.type(text)
        except (ValueError, KeyError):
            raise CraftError(
                f"{method}: {self.name} = {text!r}",
                f"It is {kinds.get(self.type, 'a text')}",
                "Write one",
            ) from None
        self.check(value, method)
        return value


@dataclass(frozen=True)
class Paper:
    """Where a method comes from; shown in the docs and in tooltips."""

    title: str
    authors: str
    year: int
    arxiv: str = ""


@dataclass(frozen=True)
class Method:
    key: str
    label: str
    summary: str
    function: Callable[..., Any]
    parameters: tuple[Parameter, ...]
    paper: Paper | None
    traits: Any = None

    def knobs(self, settings: dict[str, Any]) -> dict[str, Any]:
        """The method's keyword arguments from the user's settings, checked; defaults filled in."""
        known = {parameter.name for parameter in self.parameters}
        unknown = sorted(set(settings) - known)
        if unknown:
            raise CraftError(
                f"{self.key} was given {', '.join(unknown)}",
                f"Its settings are {', '.join(sorted(known)) or 'none'}",
                "Remove what it does not know",
            )
        for parameter in self.parameters:
            if parameter.name in settings:
                parameter.check(settings[parameter.name], self.key)
        return {p.name: settings.get(p.name, p.default) for p in self.parameters}


class Registry:
    """Methods of one family by key, in registration order."""

    def __init__(self, noun: str) -> None:
        self.noun = noun
        self._methods: dict[str, Method] = {}

    def register(self, label: str, paper: Paper | None = None, traits: Any = None) -> Callable:
        """Decorator: register the function under its own name; its docstring's first line tells
        what it does. traits: what a family declares of its methods beyond their knobs."""

        def add(function: Callable) -> Callable:
            key = function.__name__
            assert key not in self._methods, f"two {self.noun}s are called {key}"
            summary = (inspect.getdoc(function) or "").split("\n", 1)[0]
            parameters = _parameters(function)
            self._methods[key] = Method(key, label, summary, function, parameters, paper, traits)
            return function

        return add

    def __getitem__(self, key: str) -> Method:
        if key not in self._methods:
            raise UNKNOWN.error(key=repr(key), noun=self.noun, known=", ".join(self._methods))
        return self._methods[key]

    def __iter__(self) -> Iterator[Method]:
        return iter(self._methods.values())

    def keys(self) -> tuple[str, ...]:
        return tuple(self._methods)


def _parameters(function: Callable) -> tuple[Parameter, ...]:
    hints = get_type_hints(function, include_extras=True)
    found = []
    for name, spec in inspect.signature(function).parameters.items():
        if spec.kind is not inspect.Parameter.KEYWORD_ONLY:
            continue
        hint = hints[name]
        knobs = [extra for extra in get_args(hint)[1:] if isinstance(extra, Knob)]
        assert knobs, f"{function.__name__}: {name} needs Annotated[type, Knob(...)]"
        assert spec.default is not inspect.Parameter.empty, f"{name} needs a default"
        base = get_args(hint)[0]
        found.append(Parameter(name, get_origin(base) or base, spec.default, knobs[0]))
    return tuple(found)
