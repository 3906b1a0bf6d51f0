"""Which of a node's inputs are widgets, and which saved value belongs to which.

The page saves widget values as a bare list in the order in which it drew the widgets; the names
and the order come from the server's /object_info.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

Json = dict[str, Any]
DYNAMIC_COMBO = "COMFY_DYNAMICCOMBO_V3"
WIDGETS = {
    "INT",
    "FLOAT",
    "STRING",
    "BOOLEAN",
    "COMBO",
    "MARKDOWN",
    "TEXTAREA",
    "COLOR",
    "COLORS",
    "CURVE",
    "RANGE",
    "BOUNDING_BOX",
    "BOUNDING_BOXES",
    "PAINTER",
    DYNAMIC_COMBO,
}
CONTROLS = {"fixed", "increment", "decrement", "randomize", "increment-wrap"}
SEEDS = {"seed", "noise_seed"}
UPLOADS = {"image_upload", "video_upload", "animated_image_upload", "audio_upload", "mesh_upload"}
MISSING = object()


class _Values:
    """The saved list, taken from the front; `MISSING` when it is used up."""

    def __init__(self, values: list[Any]):
        self._values = values
        self._next = 0

    def peek(self) -> Any:
        return self._values[self._next] if self._next < len(self._values) else MISSING

    def take(self) -> Any:
        value = self.peek()
        self._next += 1
        return value

    @property
    def taken(self) -> int:
        """The place of the value that was taken last."""
        return self._next - 1


def widget_values(node: Json, info: Json) -> Json:
    """Input name -> value for every widget of a node, from what the page saved in it."""
    saved = node.get("widgets_values")
    if isinstance(saved, dict):
        return {name: saved[name] for name, _ in all_inputs(info) if name in saved}
    return {name: value for name, (_, value) in _saved_widgets(node, info).items()}


def widget_places(node: Json, info: Json) -> dict[str, str | int]:
    """Input name -> key or index of its value in the node's widgets_values."""
    saved = node.get("widgets_values") or []
    if isinstance(saved, dict):
        return {name: name for name, _ in all_inputs(info) if name in saved}
    found = _saved_widgets(node, info).items()
    return {name: place for name, (place, _) in found if place < len(saved)}


def _saved_widgets(node: Json, info: Json) -> dict[str, tuple[int, Any]]:
    """Input name -> (its place in the saved list, its value)."""
    saved = node.get("widgets_values")
    shown = {entry["name"] for entry in node.get("inputs") or [] if entry.get("widget")}
    result: dict[str, tuple[int, Any]] = {}
    values = _Values(saved or [])
    for group in ("required", "optional"):
        inputs = (info.get("input") or {}).get(group) or {}
        for name, spec in inputs.items():
            _take_input(name, spec, values, shown, result)
        if any(options_of(spec).get(flag) for spec in inputs.values() for flag in UPLOADS):
            values.take()  # the upload button, drawn after the group it belongs to
    return result


def all_inputs(info: Json) -> Iterator[tuple[str, Any]]:
    """Name and schema of every input that a node always has."""
    for group in ("required", "optional"):
        yield from ((info.get("input") or {}).get(group) or {}).items()


def options_of(spec: Any) -> Json:
    """The further facts of an input: its default, range, choices, ..."""
    return spec[1] if len(spec) > 1 and isinstance(spec[1], dict) else {}


def kind_of(spec: Any) -> str:
    """The widget type of an input; a bare list of choices is the older way to write COMBO."""
    return "COMBO" if isinstance(spec[0], list) else options_of(spec).get("widgetType") or spec[0]


def _take_input(
    name: str, spec: Any, values: _Values, shown: set[str], result: dict[str, tuple[int, Any]]
) -> None:
    """Take the values of one input off the list, with those that the page draws after it."""
    kind, options = kind_of(spec), options_of(spec)
    if options.get("forceInput") or not (kind in WIDGETS or name in shown):
        return
    value = values.take()
    value = default_of(spec) if value is MISSING else value
    result[name] = (values.taken, value)
    if kind == DYNAMIC_COMBO:
        for sub_name, sub_spec in chosen_inputs(options, value):
            _take_input(f"{name}.{sub_name}", sub_spec, values, shown, result)
    elif _has_control(name, kind, options) and _is_control(values.peek()):
        values.take()
        if kind == "COMBO" and isinstance(values.peek(), str):
            values.take()  # the filter that the page draws below a controlled list


def _is_control(value: Any) -> bool:
    return isinstance(value, str) and value in CONTROLS


def _has_control(name: str, kind: str, options: Json) -> bool:
    return bool(options.get("control_after_generate", kind == "INT" and name in SEEDS))


def chosen_inputs(options: Json, key: Any) -> Iterator[tuple[str, Any]]:
    """The further inputs that the chosen entry of a dynamic list brings."""
    for option in options.get("options") or []:
        if option["key"] == key:
            for group in ("required", "optional"):
                yield from (option["inputs"].get(group) or {}).items()


def default_of(spec: Any) -> Any:
    """What the page shows where a workflow saved nothing: the default, else the first choice."""
    kind, options = kind_of(spec), options_of(spec)
    if "default" in options:
        return options["default"]
    if kind in ("COMBO", DYNAMIC_COMBO):
        return (choices_of(spec) or [None])[0]
    return {"INT": 0, "FLOAT": 0.0, "BOOLEAN": False}.get(kind, "")


def choices_of(spec: Any) -> list[Any]:
    """The entries of a list; empty for another widget, and for a list that only the page fills."""
    if isinstance(spec[0], list):
        return spec[0]
    entries = options_of(spec).get("options") or []
    return [entry["key"] for entry in entries] if kind_of(spec) == DYNAMIC_COMBO else entries


def boxed(value: Any) -> Any:
    """Lists are boxed: a bare one would be read as a link."""
    return {"__value__": value} if isinstance(value, list) else value


def unboxed(value: Any) -> Any:
    """The value as a widget has it."""
    return value["__value__"] if isinstance(value, dict) and "__value__" in value else value
