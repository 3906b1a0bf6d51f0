"""`--preset`: a preset's values in the nodes of a prompt, before `--set` and `--matrix`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ...client.address import Inputs, NodeInput
from ...client.answers import NoJson, parse_json
from ...client.widgets import Json
from ...craft_core.errors import CraftError
from ...craft_core.presets import SHIPPED, NodeValues, node_values
from ...craft_core.types import ROLES

ROUTER, SCHEDULE = "CRAFTRouter", "CRAFTTimestepSchedule"
GUIDES = ("CRAFTACFGKSampler", "CRAFTACFGGuider")
CONSTANT = "constant"
_LARGEST = 1 << 22  # bytes of a file


def preset_named(given: str) -> NodeValues:
    """given: the name of a preset of the pack, else a file. CraftError where it is neither."""
    if given in SHIPPED:
        return node_values(SHIPPED[given])
    path = Path(given)
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST + 1)
        if len(content) > _LARGEST:
            raise NoJson(f"it has more than {_LARGEST} bytes")
        return node_values(parse_json(content))
    except (OSError, ValueError) as error:  # ValueError for no JSON, and a path with a NUL
        if isinstance(error, CraftError):
            raise
        raise CraftError(
            f"{given} is no preset that can be read ({error})",
            f"A preset is a JSON file, or one of {', '.join(SHIPPED)}",
            "Correct the name or the path",
        ) from error


def with_preset(prompt: Json, object_info: Json, values: NodeValues) -> tuple[Json, list[str]]:
    """(the prompt with the values in every Router, the schedules linked to them, and ACFG KSampler
    and ACFG Guider; what was left out, a line each). CraftError where no Router is there."""
    routers = _of_type(prompt, ROUTER)
    if not routers:
        raise CraftError(
            "The workflow has no Content/Style LoRA Router",
            "A preset is set on Routers and on the nodes around them",
            "Give another workflow, or leave out --preset",
        )
    found = {_source(prompt, router, "schedule") for router in routers} - {None}
    schedules = [node for node in _of_type(prompt, SCHEDULE) if node in found]
    guides = [node for kind in GUIDES for node in _of_type(prompt, kind)]
    parts = ((routers, values.router), (schedules, values.schedule), (guides, values.guidance))
    left = []
    if values.schedule and not schedules and (found or not _is_constant(values.schedule)):
        shape = values.schedule.get("shape", CONSTANT)
        left.append(f"schedule {shape}: no Timestep Schedule is linked")
    if not guides and values.guidance:
        left.append("guidance: there is no ACFG KSampler and no ACFG Guider")
    inputs = Inputs(prompt, object_info)
    settings: dict[NodeInput, str] = {}
    for nodes, own in parts:
        for target, value in _targets(nodes, own):
            if isinstance(prompt[target.node]["inputs"].get(target.input), list):
                left.append(f"{target.node}.{target.input}: it comes from another node")
            elif not inputs.has(target):
                left.append(f"{target.node}.{target.input}: the server's node has no such input")
            else:
                settings[target] = value if isinstance(value, str) else json.dumps(value)
    return inputs.with_values(settings), left


def _targets(nodes: list[str], values: Mapping[str, Any]) -> Iterator[tuple[NodeInput, Any]]:
    return ((NodeInput(node, name), value) for node in nodes for name, value in values.items())


def _is_constant(schedule: Mapping[str, Any]) -> bool:
    """Whether a schedule is what a Router without one has."""
    strengths = (schedule.get(f"shape.{role}", 1) for role in ROLES)
    return schedule.get("shape", CONSTANT) == CONSTANT and all(one == 1 for one in strengths)


def _of_type(prompt: Json, kind: str) -> list[str]:
    return [name for name, node in prompt.items() if node["class_type"] == kind]


def _source(prompt: Json, node: str, name: str) -> str | None:
    """The node that an input is linked to; None for none."""
    link = prompt[node]["inputs"].get(name)
    return str(link[0]) if isinstance(link, list) and link else None
