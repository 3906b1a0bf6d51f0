"""Methods and their settings as text, one a line, as a comparison lists them.

k_lora
k_lora: pattern = s*, gamma = released
craft: layer_sets = b-lora, guidance = cfg    # besides a method's own settings
direct: guidance = role, weight = 1.5         # and those of its guidance rule
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ..errors import CraftError
from ..registry import Method, Parameter, Registry
from .methods import FUSION

MOST_LINES = 200
_FORM = "A line is a method, or a method, a colon and its settings: k_lora: pattern = s*"


@dataclass(frozen=True)
class Line:
    """label: for the picture. knobs: only those that are written. layer_sets: a preset's key,
    guidance: a guidance rule's; each "" for the common choice. weights: settings of that rule, only
    those that are written."""

    label: str
    method: Method
    knobs: dict[str, Any] = field(default_factory=dict)
    layer_sets: str = ""
    guidance: str = ""
    weights: dict[str, Any] = field(default_factory=dict)


def parse_lines(text: str, presets: tuple[str, ...], rules: Registry) -> tuple[Line, ...]:
    """What to compare, in order; blank lines and what follows a # are skipped.

    presets: keys that layer_sets can be. rules: what guidance can be. Raises CraftError naming
    the line for what is unknown, out of range or written twice, and where there is no line.
    """
    lines: dict[tuple[Any, ...], Line] = {}
    for number, raw in enumerate(text.splitlines(), 1):
        if len(lines) == MOST_LINES:
            raise CraftError(
                f"More than {MOST_LINES} lines are listed",
                "Each line is a row of the comparison",
                "Compare fewer at a time",
            )
        written = raw.split("#", 1)[0].strip()
        if not written:
            continue
        try:
            line = parse_line(written, presets, rules)
        except CraftError as error:
            raise CraftError(
                f"Line {number}: {error.given}", error.possible, error.action
            ) from None
        own = meaning(line, rules)
        if own in lines:
            raise CraftError(
                f"Line {number}: {written!r} is there already",
                "Each row of a comparison is another method or setting",
                "Change or remove one of the two",
            )
        lines[own] = line
    if not lines:
        raise CraftError(
            "No method is listed", f"Known are {', '.join(FUSION.keys())}", "Write one a line"
        )
    return tuple(lines.values())


def meaning(line: Line, rules: Registry) -> tuple[Any, ...]:
    """Equal for lines that are one method with one setting, however they are written."""
    weights = rules[line.guidance].knobs(line.weights) if line.guidance else {}
    knobs = line.method.knobs(line.knobs)
    named = (line.method.key, line.layer_sets, line.guidance)
    return (*named, tuple(knobs.items()), tuple(weights.items()))


def parse_line(written: str, presets: tuple[str, ...], rules: Registry) -> Line:
    """One line without its comment, as parse_lines reads it."""
    key, _, rest = written.partition(":")
    method = FUSION[key.strip()]
    settings = settings_in(rest)
    label = "\n".join([method.key, *(f"{name} = {value}" for name, value in settings.items())])
    layer_sets = settings.pop("layer_sets", "")
    guidance = settings.pop("guidance", "")
    _require(layer_sets, "layer_sets", presets)
    if layer_sets and not method.traits.layer_sets:
        raise CraftError(
            f"{method.key} does not use layer_sets",
            f"These do: {', '.join(one.key for one in FUSION if one.traits.layer_sets)}",
            "Take layer_sets out of this line",
        )
    _require(guidance, "guidance", rules.keys())
    own = {parameter.name: parameter for parameter in method.parameters}
    of_rule = _of_rule(guidance, rules)
    for name in settings:
        if name in own or name in of_rule:
            continue
        owners = [rule for rule in rules.keys() if name in _of_rule(rule, rules)]
        possible = ", ".join([*own, "layer_sets", "guidance", *of_rule])
        raise CraftError(
            f"{method.key} has no setting {name!r}"
            + (f", which the guidance rules {', '.join(owners)} have" if owners else ""),
            f"It has {possible}",
            f"Write guidance = {owners[0]} beside it" if owners else "Use one of these",
        )
    knobs, weights = (
        {name: known[name].read(value, key) for name, value in settings.items() if name in known}
        for known, key in ((own, method.key), (of_rule, guidance))
    )
    return Line(label, method, knobs, layer_sets, guidance, weights)


def _of_rule(key: str, rules: Registry) -> dict[str, Parameter]:
    return {one.name: one for one in rules[key].parameters} if key else {}


def settings_in(text: str) -> dict[str, str]:
    """What is written as "name = value" with commas between; CraftError for what is not."""
    settings: dict[str, str] = {}
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not (equals and name and value):
            raise CraftError(f"{part!r} is no setting", _FORM, "Write name = value")
        if name in settings:
            raise CraftError(f"{name} is set twice", _FORM, "Keep one of the two")
        settings[name] = value
    return settings


def _require(value: str, name: str, possible: tuple[str, ...]) -> None:
    if value and value not in possible:
        raise CraftError(
            f"{name} = {value}", f"It can be one of {', '.join(possible)}", "Choose one of these"
        )
