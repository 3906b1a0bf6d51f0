"""A method's knobs as flags: the annotation that makes the node's widgets makes these too."""

from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError, BooleanOptionalAction, Namespace
from collections.abc import Callable
from typing import Any

from ..errors import CraftError
from ..registry import Method, Parameter

METAVARS = {int: "N", float: "X", str: "TEXT"}


def add_knob_flags(parser: ArgumentParser, method: Method) -> None:
    """A flag for each knob: r_max is --r-max, a boolean is --mirror and --no-mirror."""
    group = parser.add_argument_group(f"settings of the recipe, {method.label}")
    for parameter in method.parameters:
        flag, text = flag_of(parameter), _help(parameter)
        if parameter.type is bool:
            group.add_argument(
                flag, action=BooleanOptionalAction, default=parameter.default, help=text
            )
            continue
        choices = parameter.knob.choices
        group.add_argument(
            flag, type=_reader(parameter, method.key), default=parameter.default, help=text,
            metavar="WHICH" if choices else METAVARS[parameter.type],
        )  # fmt: skip


def knobs_of(options: Namespace, method: Method) -> dict[str, Any]:
    """The method's keyword arguments from the parsed flags, checked."""
    return method.knobs({p.name: getattr(options, p.name) for p in method.parameters})


def flag_of(parameter: Parameter) -> str:
    return f"--{parameter.name.replace('_', '-')}"


def _reader(parameter: Parameter, method: str) -> Callable[[str], Any]:
    def read(text: str) -> Any:
        try:
            value = parameter.type(text)
        except ValueError:
            kind = "whole number" if parameter.type is int else "number"
            raise ArgumentTypeError(f"{text!r} is no {kind}") from None
        try:
            parameter.check(value, method)
        except CraftError as error:
            raise ArgumentTypeError(str(error)) from None
        return value

    return read


def _help(parameter: Parameter) -> str:
    """The knob's help, what is possible, and the default; % escaped for argparse."""
    knob = parameter.knob
    if knob.choices:
        possible = f" One of: {', '.join(knob.choices)}."
    elif knob.minimum is not None and knob.maximum is not None:
        possible = f" {parameter.type(knob.minimum)} to {parameter.type(knob.maximum)}."
    else:
        possible = ""
    # argparse would add the default of a boolean itself, unless the text names it
    return f"{knob.help}{possible}".replace("%", "%%") + " Default: %(default)s."
