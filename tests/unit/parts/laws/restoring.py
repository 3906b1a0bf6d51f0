"""The law of `showing`: the workflow that it gives becomes exactly the prompt whose values it
shows, and the workflow that it was given stays as it is."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

from craft_lora_pack.client.address import Inputs, NodeInput
from craft_lora_pack.client.to_page.showing import showing
from craft_lora_pack.client.widgets import (
    DYNAMIC_COMBO,
    WIDGETS,
    Json,
    all_inputs,
    choices_of,
    chosen_inputs,
    kind_of,
    options_of,
    unboxed,
)
from craft_lora_pack.client.workflow import to_prompt


def restored(workflow: Json, info: Json, values: dict[str, str]) -> tuple[Json, Json]:
    """(the workflow that shows these values, its prompt), with the law looked at; `12:3.steps`."""
    before = copy.deepcopy(workflow)
    base = to_prompt(workflow, info)
    targets = {NodeInput(*name.split(".", 1)): text for name, text in values.items()}
    prompt = Inputs(base, info).with_values(targets)
    shown = showing(workflow, base, prompt, info)
    assert shown is not None, values
    assert to_prompt(shown, info) == prompt, values
    assert workflow == before
    return shown, prompt


def single_changes(workflow: Json, info: Json) -> Iterator[tuple[str, str]]:
    """`NODE.INPUT` and another value, for each input of each node that can have one: once where
    there are many values, and for each entry of a list that brings further inputs."""
    for node, one in to_prompt(workflow, info).items():
        for name, spec in _drawn(all_inputs(info[one["class_type"]]), one["inputs"]):
            for value in _others(spec, one["inputs"].get(name)):
                text = json.dumps(value) if isinstance(value, list) else str(value)
                yield f"{node}.{name}", text


def _drawn(specs: Any, inputs: Json, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for own, spec in specs:
        name = f"{prefix}{own}"
        if kind_of(spec) in WIDGETS and not options_of(spec).get("forceInput"):
            yield name, spec
            if kind_of(spec) == DYNAMIC_COMBO:
                inner = chosen_inputs(options_of(spec), inputs.get(name))
                yield from _drawn(inner, inputs, f"{name}.")


def _others(spec: Any, value: Any) -> list[Any]:
    """Other values that an input of this schema takes."""
    kind, value = kind_of(spec), unboxed(value)
    if kind in ("COMBO", DYNAMIC_COMBO):
        others = [one for one in choices_of(spec) if one != value]
        return others if kind == DYNAMIC_COMBO else others[-1:]
    if kind == "BOOLEAN":
        return [value is not True]
    if kind == "INT":
        return [3 if value == 2 else 2]
    if kind == "FLOAT":
        return [0.625 if value == 0.375 else 0.375]
    if kind in ("STRING", "MARKDOWN", "TEXTAREA", "COLOR"):
        return [f"other than {value}" if isinstance(value, str) else "other"]
    return [[[0.0, 0.5], [1.0, 0.25]]]
