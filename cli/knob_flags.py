"""Flags for the knobs of methods, made of the annotations that make the nodes' widgets."""

from __future__ import annotations

from argparse import SUPPRESS, ArgumentParser, ArgumentTypeError, BooleanOptionalAction, Namespace
from collections.abc import Callable, Iterable
from typing import Any

from ..craft_core.errors import CraftError
from ..craft_core.registry import Method, Parameter

METAVARS = {int: "N", float: "X", str: "TEXT"}


def add_knob_flags(parser: ArgumentParser, method: Method) -> None:
    """A flag for each knob: r_max is --r-max, a boolean is --mirror and --no-mirror."""
    group = parser.add_argument_group(f"settings of the recipe, {method.label}")
    for parameter in method.parameters:
        option, text = flag_of(parameter), _help(parameter)
        if parameter.type is bool:
            group.add_argument(
                option, action=BooleanOptionalAction, default=parameter.default, help=text
            )
            continue
        choices = parameter.knob.choices
        group.add_argument(
            option, type=_reader(parameter, method.key), default=parameter.default, help=text,
            metavar="WHICH" if choices else METAVARS[parameter.type],
        )  # fmt: skip


def knobs_of(options: Namespace, method: Method) -> dict[str, Any]:
    """The method's keyword arguments from the parsed flags, checked."""
    return method.knobs({p.name: getattr(options, p.name) for p in method.parameters})


def add_method_flags(parser: ArgumentParser, methods: Iterable[Method], what: str) -> None:
    """--method, and a flag for each knob of any of the methods. what: help for --method.

    A flag that is not given leaves its method's own default.
    """
    methods = tuple(methods)
    lines = [f"{method.key}: {method.summary}" for method in methods]
    parser.add_argument(
        "--method", choices=[method.key for method in methods], required=True,
        help=" ".join([what, *lines]).replace("%", "%%"),
    )  # fmt: skip
    having: dict[str, list[Method]] = {}
    for method in methods:
        for parameter in method.parameters:
            having.setdefault(parameter.name, []).append(method)
    group = parser.add_argument_group("settings of the methods")
    for name, owners in having.items():
        own = {m.key: next(p for p in m.parameters if p.name == name) for m in owners}
        first, *others = own.values()
        assert all(one.type is first.type for one in others), f"{name} is of one type"
        text = _help_of_all(own)
        if first.type is bool:
            group.add_argument(
                flag_of(first), action=BooleanOptionalAction, default=SUPPRESS, help=text
            )
            continue
        group.add_argument(
            flag_of(first), type=_reader_of_any(own), default=SUPPRESS, help=text,
            metavar="WHICH" if first.knob.choices else METAVARS[first.type],
        )  # fmt: skip


def chosen_method(options: Namespace, methods: Iterable[Method]) -> tuple[Method, dict[str, Any]]:
    """(the chosen method, its keyword arguments). CraftError for a flag of another method."""
    known = {method.key: method for method in methods}
    names = {p.name for method in known.values() for p in method.parameters}
    method = known[options.method]
    return method, method.knobs({n: value for n, value in vars(options).items() if n in names})


def flag_of(parameter: Parameter) -> str:
    return flag(parameter.name)


def flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _typed(parameter: Parameter) -> Callable[[str], Any]:
    def read(text: str) -> Any:
        try:
            return parameter.type(text)
        except ValueError:
            kind = "whole number" if parameter.type is int else "number"
            raise ArgumentTypeError(f"{text!r} is no {kind}") from None

    return read


def _reader(parameter: Parameter, method: str) -> Callable[[str], Any]:
    typed = _typed(parameter)

    def read(text: str) -> Any:
        value = typed(text)
        try:
            parameter.check(value, method)
        except CraftError as error:
            raise ArgumentTypeError(str(error)) from None
        return value

    return read


def _reader_of_any(own: dict[str, Parameter]) -> Callable[[str], Any]:
    """Reads a flag that several methods share, and refuses what none of them takes.

    own: the parameter of each method, by the method's key.
    """
    readers = [_reader(parameter, method) for method, parameter in own.items()]

    def read(text: str) -> Any:
        refused: ArgumentTypeError | None = None
        for reader in readers:
            try:
                return reader(text)
            except ArgumentTypeError as error:
                refused = refused or error
        assert refused is not None, "a flag belongs to a method"
        raise refused

    return read


def _help(parameter: Parameter) -> str:
    """The knob's help, what is possible, and the default; % escaped for argparse."""
    # argparse would add the default of a boolean itself, unless the text names it
    return _possible(parameter).replace("%", "%%") + " Default: %(default)s."


def _help_of_all(own: dict[str, Parameter]) -> str:
    """The help of a knob that several methods have, by key, with the default of each."""
    texts = dict.fromkeys(_possible(parameter) for parameter in own.values())
    defaults = ", ".join(f"{key} {parameter.default}" for key, parameter in own.items())
    return f"{' '.join(texts)} Default: {defaults}.".replace("%", "%%")


def _possible(parameter: Parameter) -> str:
    """The knob's help, and what it can be."""
    knob = parameter.knob
    if knob.choices:
        return f"{knob.help} One of: {', '.join(knob.choices)}."
    if knob.minimum is not None and knob.maximum is not None:
        return f"{knob.help} {parameter.type(knob.minimum)} to {parameter.type(knob.maximum)}."
    return knob.help
