"""What the core and the page both say to a user: each text stands here, and nowhere else.

`python run.py locales` writes them as functions into web/js/lib/core.js, where the page says them
in its language. {name} in a text stands for a value.
"""

from __future__ import annotations

from dataclasses import dataclass

from .errors import CraftError


@dataclass(frozen=True)
class Mistake:
    """The three parts of a CraftError, with places for values."""

    given: str
    possible: str
    action: str

    def error(self, **values: str | float) -> CraftError:
        return CraftError(*(part.format(**values) for part in self.parts))

    @property
    def parts(self) -> tuple[str, str, str]:
        return self.given, self.possible, self.action


NO_MARKER = "The prompt has no {marker}, so the {role} LoRA is off."
UNCLOSED = (
    "{marker} at character {place} is not closed, so it marks the words before it. To mark those "
    "after it, close them with {closing}."
)
NOT_ROUTED = (
    "This MODEL carries no routed LoRAs, so sampling is plain. Connect the Content/Style LoRA "
    "Router's MODEL, with LoRAs chosen and <c> or <s> in its prompt."
)
NO_GUIDANCE = (
    "At cfg 1 most samplers run no unconditional pass, and then ACFG equals standard CFG. Raise "
    "cfg above 1, or, on a distilled model, choose role in the guidance menu and set its weights."
)
OVERDRIVEN = (
    "Strength {strength} times {weight} {value} is {product}; above {most}, pictures burn. "
    "With {inputs}, bring the strength to {fitting}, or lower {weight}."
)
OVERDRIVEN_PLACES = "LoRAs are guided too far in {count} of {total} settings, farthest in {place}."
UNMATCHED_PATTERNS = "These layer patterns match no layer of this model: {patterns}"

UNKNOWN = Mistake("{key} is no {noun}", "Known are {known}", "Choose one of these")

OTHER_NEGATIVE = Mistake(
    "The negative prompt has a MODEL of its own, which does not have the LoRAs that are routed in "
    "the other one, or has further ones",
    "In ComfyUI both prompts run with what the first MODEL does, and MODELs of one checkpoint are "
    "one network",
    "To keep the LoRAs out of the negative prompt use ACFG Guider; else give both inputs the "
    "routed MODEL",
)
MERGED_BEFORE = Mistake(
    "A node between the Router and ACFG, such as a merge, has put the routed LoRAs into the "
    "weights: {layer} has a DoRA or another kind that depends on the weight it meets",
    "LoRAs in the weights act in the negative prompt too, which this guidance keeps them out of",
    "Put the Router behind that node, or turn asymmetric off",
)
DID_NOT_ACT = Mistake(
    "The LoRAs that are routed in a MODEL did not act in the sampling that has just ended",
    "Routed LoRAs act where a guider samples their MODEL itself, which ComfyUI's Dual Model CFG "
    "Guider does for the positive prompt alone",
    "Give the routed MODEL to the input for the positive prompt, or use ACFG Guider",
)

_MARKED = "Mark <c>a content phrase</c> and <s>a style phrase</s>"
TOO_MANY_MARKERS = Mistake(
    "The prompt has more than {most} markers",
    _MARKED,
    "Mark fewer phrases",
)
NOTHING_TO_CLOSE = Mistake(
    "The prompt has {marker} at character {place} with no marker to close",
    _MARKED,
    "Add the opening marker before the phrase, or remove {marker}",
)
MARKER_INSIDE = Mistake(
    "The prompt has {inner} between {opening} and {closing} (character {place})",
    "A content phrase and a style phrase stand side by side, never in one another",
    "Move {closing} before {inner}",
)
EMPTY_PHRASE = Mistake(
    "The marker {marker} at character {place} marks no words",
    _MARKED,
    "Write the phrase it belongs to, or remove the marker to switch its branch off",
)
NOT_CLOSED = Mistake(
    "{marker} at character {place} is not closed, and there are no words before it to mark",
    _MARKED,
    "Add {closing} after its phrase, or remove {marker}",
)
MARKER_LEFT = Mistake(
    "Removing the prompt's markers leaves another marker",
    _MARKED,
    "Remove the extra < or > around a marker",
)

WINDOW_REVERSED = Mistake(
    "window: {role}_start = {start} lies after {role}_end = {end}",
    "A window runs from its start to a later or equal end, 0 to 1",
    "Swap them, or set the role's strength to 0 to switch it off",
)
TOO_MANY_POINTS = Mistake(
    "The {role} curve has {count} points",
    "A curve has up to {most} points",
    "Leave some out",
)
WRONG_POINTS = Mistake(
    "The {role} points are {points}",
    'Points are x y pairs from 0 to 1 with different x, such as "0 1, 0.5 0.3, 1 0"',
    "Correct them",
)
