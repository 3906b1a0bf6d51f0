"""Which of a node's inputs are widgets, and which saved value belongs to which.

The page saves widget values as a bare list in the order in which it drew the widgets; the names
and the order come from the server's /object_info.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
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

    @property
    def rest(self) -> list[Any]:
        """What nobody has taken."""
        return list(self._values[self._next :])


def widget_values(node: Json, info: Json) -> Json:
    """Input name -> value for every widget of a node, from what the page saved in it."""
    saved = node.get("widgets_values")
    if isinstance(saved, dict):
        return {name: saved[name] for name, _ in all_inputs(info) if name in saved}
    return {name: one.value for name, one in _saved_widgets(node, info).widgets.items()}


def widget_places(node: Json, info: Json) -> dict[str, str | int]:
    """Input name -> key or index of its value in the node's widgets_values."""
    saved = node.get("widgets_values") or []
    if isinstance(saved, dict):
        return {name: name for name, _ in all_inputs(info) if name in saved}
    found = _saved_widgets(node, info).widgets.items()
    return {name: one.place for name, one in found if one.place < len(saved)}


def with_widget_values(node: Json, info: Json, values: Json) -> list[Any] | Json:
    """The node's widgets_values with some of them changed; what is no widget is passed over.

    Where a list has another entry, they are in the order in which the page draws the widgets then.
    The widgets that come with the entry have what is given, else what an input of that name had,
    else their defaults.
    """
    saved = node.get("widgets_values") or []
    if isinstance(saved, dict):
        return saved | values
    places = widget_places(node, info)
    changed = list(saved)
    for name in values.keys() & places.keys():
        changed[places[name]] = values[name]
    same = widget_places({**node, "widgets_values": changed}, info) == places
    return changed if same and values.keys() <= places.keys() else _anew(node, info, values)


def _anew(node: Json, info: Json, values: Json) -> list[Any]:
    old = _saved_widgets(node, info)
    new: Json = {}
    result: list[Any] = []
    buttons = iter(old.buttons)
    for name, spec in _drawn(info, _sockets(node), new):
        if not name:
            result.append(next(buttons))
            continue
        undrawn = _Saved(0, default_of(spec), _controls(name, spec))
        before = old.widgets.get(name, undrawn)
        new[name] = values.get(name, before.value)
        result += [new[name], *before.behind]
    return result + old.rest


@dataclass(frozen=True)
class _Saved:
    """A widget's place in the saved list, its value, and the values of those that belong to it."""

    place: int
    value: Any
    behind: list[Any]


@dataclass(frozen=True)
class _SavedWidgets:
    """What a list of saved values has: of the inputs, of upload buttons, and of what is left."""

    widgets: dict[str, _Saved]
    buttons: list[Any]
    rest: list[Any]


def _saved_widgets(node: Json, info: Json) -> _SavedWidgets:
    values = _Values(node.get("widgets_values") or [])
    widgets: dict[str, _Saved] = {}
    buttons: list[Any] = []
    known: Json = {}
    for name, spec in _drawn(info, _sockets(node), known):
        value = values.take()
        if not name:
            buttons.append("image" if value is MISSING else value)
            continue
        place = values.taken
        known[name] = default_of(spec) if value is MISSING else value
        widgets[name] = _Saved(place, known[name], _taken_controls(name, spec, values))
    return _SavedWidgets(widgets, buttons, values.rest)


def _sockets(node: Json) -> set[str]:
    """The inputs that are drawn as a widget and a socket."""
    return {entry["name"] for entry in node.get("inputs") or [] if entry.get("widget")}


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


def _drawn(info: Json, sockets: set[str], values: Json) -> Iterator[tuple[str, Any]]:
    """Name and schema of each widget in the order in which the page draws them, with an empty name
    for an upload button.

    values: of the lists whose entries bring further widgets; each is asked for when the widget
    after it is wanted.
    """
    for group in ("required", "optional"):
        inputs = (info.get("input") or {}).get(group) or {}
        for name, spec in inputs.items():
            yield from _drawn_with(name, spec, sockets, values)
        if any(options_of(spec).get(flag) for spec in inputs.values() for flag in UPLOADS):
            yield "", None  # drawn after the group it belongs to


def _drawn_with(name: str, spec: Any, sockets: set[str], values: Json) -> Iterator[tuple[str, Any]]:
    """One input, and those that the page draws after it."""
    kind, options = kind_of(spec), options_of(spec)
    if options.get("forceInput") or not (kind in WIDGETS or name in sockets):
        return
    yield name, spec
    if kind == DYNAMIC_COMBO:
        for sub_name, sub_spec in chosen_inputs(options, values[name]):
            yield from _drawn_with(f"{name}.{sub_name}", sub_spec, sockets, values)


def _taken_controls(name: str, spec: Any, values: _Values) -> list[Any]:
    """The values of the widgets that the page draws to control another one."""
    if values.peek() is MISSING:
        return _controls(name, spec)
    if not _has_control(name, spec) or not _is_control(values.peek()):
        return []
    taken = [values.take()]
    if kind_of(spec) == "COMBO" and isinstance(values.peek(), str):
        taken.append(values.take())  # the filter that the page draws below a controlled list
    return taken


def _controls(name: str, spec: Any) -> list[Any]:
    """What those widgets have where nothing was saved, so that the value stays."""
    if not _has_control(name, spec):
        return []
    return ["fixed", ""] if kind_of(spec) == "COMBO" else ["fixed"]


def _is_control(value: Any) -> bool:
    return isinstance(value, str) and value in CONTROLS


def _has_control(name: str, spec: Any) -> bool:
    kind = kind_of(spec)
    if kind == DYNAMIC_COMBO:
        return False
    return bool(options_of(spec).get("control_after_generate", kind == "INT" and name in SEEDS))


def chosen_inputs(options: Json, key: Any) -> Iterator[tuple[str, Any]]:
    """The further inputs that the chosen entry of a dynamic list brings."""
    for option in options.get("options") or []:
        if option["key"] == key:
            yield from _brought_by(option)


def _brought_by(option: Json) -> Iterator[tuple[str, Any]]:
    for group in ("required", "optional"):
        yield from (option["inputs"].get(group) or {}).items()


def with_nested(specs: Iterable[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
    """Inputs, and those that any entry of their lists brings, under the names that prompts have."""
    for name, spec in specs:
        yield name, spec
        for option in _entries_of(spec):
            inner = _brought_by(option)
            yield from with_nested((f"{name}.{own}", one) for own, one in inner)


def letters_of(specs: Iterable[tuple[str, Any]], before: int = 0) -> int:
    """How many characters the names have that with_nested gives. before: of what each begins
    with."""
    letters = 0
    for name, spec in specs:
        own = before + len(name)
        letters += own + sum(letters_of(_brought_by(one), own + 1) for one in _entries_of(spec))
    return letters


def _entries_of(spec: Any) -> list[Json]:
    """The entries of a list that may bring further inputs."""
    return options_of(spec).get("options") or [] if kind_of(spec) == DYNAMIC_COMBO else []


def with_chosen(specs: Iterable[tuple[str, Any]], values: Json) -> Iterator[tuple[str, Any]]:
    """Inputs, and those that the chosen entries of their lists bring. values: a node's, by name."""
    for name, spec in specs:
        yield name, spec
        if kind_of(spec) == DYNAMIC_COMBO:
            inner = chosen_inputs(options_of(spec), values.get(name))
            yield from with_chosen(((f"{name}.{own}", one) for own, one in inner), values)


def plain_file_name(name: str) -> str:
    """The same for names of one file on two systems: Windows has backslashes where others have /,
    and a Mac may take a letter's accent for a letter of its own."""
    return unicodedata.normalize("NFC", _with_slashes(name))


def _with_slashes(name: str) -> str:
    return name.replace("\\", "/")


def same_files(name: str, entries: Sequence[Any]) -> list[Any]:
    """The different entries of a list that may be the file of a name.

    The name itself goes before what differs in slashes alone, and that before what differs in
    accents too: where a system tells two such names apart, each has its own file.
    """
    found: list[Any] = []
    for plain in _READINGS:
        same = (one for one in entries if plain(str(one)) == plain(name))
        found = list({str(one): one for one in same}.values())
        if found:
            break
    return found


_READINGS = (str, _with_slashes, plain_file_name)


class FileNames:
    """The entries of a list that is asked for many names: each as same_files finds it."""

    def __init__(self, entries: Sequence[Any]) -> None:
        self._read: list[dict[str, dict[str, Any]]] = [{} for _ in _READINGS]
        for one in entries:
            for plain, table in zip(_READINGS, self._read, strict=True):
                table.setdefault(plain(str(one)), {})[str(one)] = one

    def same(self, name: str) -> list[Any]:
        for plain, table in zip(_READINGS, self._read, strict=True):
            if plain(name) in table:
                return list(table[plain(name)].values())
        return []


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
