"""What a server answers, read into values whose types are sure.

A server may be another program, a proxy or a broken pack: nothing of an answer is used before it is
seen to be what ComfyUI sends. RemoteError says which answer was not.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from .errors import RemoteError
from .widgets import DYNAMIC_COMBO, Json, all_inputs, kind_of, letters_of

MOST_DEPTH = 100  # lists and tables inside one another
MOST_DIGITS = 400  # of a whole number; the largest float has 309
MOST_LETTERS = 1 << 24  # of the names of all inputs, those that entries of lists bring included
_SCALARS = (str, int, float, bool)
_GROUPS = ("required", "optional")


class NoJson(ValueError):
    """Why a text is not read as JSON."""


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text in UTF-8 or with a byte order mark. NoJson also for one that is
    nested deeper, or has longer numbers, than anything this program reads."""
    try:
        value = _DECODER.decode(_as_text(text))
    except RecursionError as error:
        raise NoJson("it is nested too deeply") from error
    except ValueError as error:
        raise NoJson(str(error)) from error
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(MOST_DEPTH):
        level = [inner for one in level for inner in _inside(one) if isinstance(inner, dict | list)]
        if not level:
            return value
    raise NoJson("it is nested too deeply")


def _inside(one: Any) -> Any:
    return one.values() if isinstance(one, dict) else one


def _whole(digits: str) -> int:
    if len(digits) > MOST_DIGITS:
        raise NoJson(f"it has a number of {len(digits)} digits")
    return int(digits)


_DECODER = json.JSONDecoder(parse_int=_whole)  # made once: a journal has many short lines


def _as_text(text: str | bytes) -> str:
    if isinstance(text, bytes):
        return text.decode(json.detect_encoding(text), "surrogatepass")
    if text.startswith("\ufeff"):
        raise NoJson("it begins with a byte order mark")
    return text


def other_answer(path: str, lacks: str) -> RemoteError:
    return RemoteError(f"the server's answer to {path} is not ComfyUI's: {lacks}.")


def known_nodes(answer: Any) -> Json:
    """/object_info: node type -> its schema. Inputs that no page can draw are left out."""
    nodes = answer if isinstance(answer, dict) else {}
    found = {name: _schema(node) for name, node in nodes.items() if _is_schema(node)}
    if not found:
        raise other_answer("/object_info", "it has no nodes")
    letters = sum(letters_of(all_inputs(node)) for node in found.values())
    if letters > MOST_LETTERS:
        raise other_answer("/object_info", f"its inputs have names of {letters} letters")
    return found


def _is_schema(node: Any) -> bool:
    return isinstance(node, dict) and isinstance(node.get("input"), dict)


def _schema(node: Json) -> Json:
    shown = node.get("display_name")
    names = {"display_name": shown} if isinstance(shown, str) else {}
    rest = {key: value for key, value in node.items() if key != "display_name"}
    return rest | names | {"input": _inputs(node["input"])}


def _inputs(groups: Any) -> Json:
    """The inputs of a node, or of a list's entry, that have a type."""
    return {
        group: {name: _spec(spec) for name, spec in groups[group].items() if _has_type(spec)}
        for group in _GROUPS
        if isinstance(groups, dict) and isinstance(groups.get(group), dict)
    }


def _has_type(spec: Any) -> bool:
    return isinstance(spec, list) and bool(spec) and isinstance(spec[0], str | list)


def _spec(spec: list[Any]) -> list[Any]:
    kind = _choices(spec[0]) if isinstance(spec[0], list) else spec[0]
    options = dict(spec[1]) if len(spec) > 1 and isinstance(spec[1], dict) else {}
    if not isinstance(options.get("widgetType", ""), str):
        del options["widgetType"]
    if "options" in options:
        given = options["options"]
        options["options"] = list(_entries(given)) if isinstance(given, list) else []
        drawn = kind_of([kind, options])  # which its options may choose
        if drawn == "COMBO":
            options["options"] = _choices(options["options"])
        elif drawn == DYNAMIC_COMBO:
            options["options"] = [one for one in options["options"] if isinstance(one, dict)]
    return [kind, options]


def _choices(entries: list[Any]) -> list[Any]:
    return [one for one in entries if isinstance(one, _SCALARS)]


def _entries(given: list[Any]) -> Iterator[Any]:
    """Entries of a list: plain ones, and those that bring further inputs."""
    for one in given:
        if isinstance(one, _SCALARS):
            yield one
        elif isinstance(one, dict) and isinstance(one.get("key"), _SCALARS):
            yield {"key": one["key"], "inputs": _inputs(one.get("inputs"))}


@dataclass(frozen=True)
class PromptRecord:
    """A prompt that has ended. outputs: node id -> the node's own ui outputs, by node id: the host
    lists them as they were made, those it had kept first."""

    succeeded: bool
    messages: list[tuple[str, Json]]
    outputs: dict[str, Json]


def record_of(answer: Any, prompt_id: str) -> PromptRecord | None:
    """/history/ID: the record of a prompt that has ended; None while it has not."""
    path = f"/history/{prompt_id}"
    if not isinstance(answer, dict):
        raise other_answer(path, "it is no table")
    if prompt_id not in answer:
        return None
    record = answer[prompt_id]
    if not isinstance(record, dict):
        raise other_answer(path, "it has no record")
    status, outputs = record.get("status"), record.get("outputs")
    status = status if isinstance(status, dict) else {}
    succeeded = status.get("status_str") == "success"
    if succeeded and not _is_table_of_tables(outputs):
        raise other_answer(path, "it has no outputs")
    made = dict(sorted(outputs.items(), key=_by_number)) if succeeded else {}
    return PromptRecord(succeeded, _messages(status.get("messages")), made)


def _by_number(output: tuple[str, Json]) -> list[tuple[int, str]]:
    """9 before 10, and 4:9, which is inside 4, before 4:10."""
    return [(len(part), part) for part in output[0].split(":")]


def _is_table_of_tables(outputs: Any) -> bool:
    return isinstance(outputs, dict) and all(isinstance(one, dict) for one in outputs.values())


def _messages(given: Any) -> list[tuple[str, Json]]:
    pairs = given if isinstance(given, list) else []
    return [
        (one[0], one[1])
        for one in pairs
        if isinstance(one, list) and len(one) == 2 and isinstance(one[1], dict)
    ]


def waiting_ids(answer: Any) -> list[str]:
    """/queue: the ids of the prompts that run and wait, in their order."""
    lists = [answer.get(f"queue_{which}") for which in ("running", "pending")
             ] if isinstance(answer, dict) else []  # fmt: skip
    if not lists or not all(isinstance(one, list) for one in lists):
        raise other_answer("/queue", "it has no lists of prompts")
    items = [item for one in lists for item in one]
    if not all(isinstance(item, list) and len(item) > 1 for item in items):
        raise other_answer("/queue", "a prompt has no id")
    running, pending = lists
    return [str(item[1]) for item in (*running, *sorted(pending, key=_place))]


def _place(item: list[Any]) -> float:
    return item[0] if _is_number(item[0]) else math.inf


def _is_number(value: Any) -> bool:
    """Whether it is finite, and no larger than any float."""
    try:
        return (
            isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        )
    except OverflowError:
        return False


def number(value: Any) -> float:
    """A finite number of an answer or of a file; 0 for anything else."""
    return float(value) if _is_number(value) else 0.0


def event_of(message: str) -> tuple[str, Json] | None:
    """(kind, data) of a message of the WebSocket; None for another message."""
    try:
        event = parse_json(message)
    except NoJson:
        return None
    kind = event.get("type") if isinstance(event, dict) else None
    data = event.get("data") if isinstance(event, dict) else None
    return (kind, data) if isinstance(kind, str) and isinstance(data, dict) else None


def files_of(output: Mapping[str, Any], kind: str | None = None) -> list[dict[str, str]]:
    """The files among a node's ui outputs, of one kind or of all."""
    lists = [output.get(kind)] if kind else output.values()
    items = [item for one in lists if isinstance(one, list) for item in one]
    return [
        {name: text for name in ("filename", "subfolder", "type")
         if isinstance(text := item.get(name), str)}
        for item in items
        if isinstance(item, dict) and isinstance(item.get("filename"), str)
    ]  # fmt: skip
