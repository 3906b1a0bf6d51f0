"""Whether a node's training was stopped, and can go on: what the page asks when it is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...craft_core.errors import CraftError, listed
from ...craft_core.registry import Method
from ...craft_core.training import LEARNED, TRAINING, DataSlots
from ...craft_core.training.loop import state_steps
from ...craft_core.training.slots import ROLE, RoleSlot
from ...craft_core.training.trigger import EFFORTS
from ...craft_core.types import ROLES
from ..train.run import kept_state
from .training import effort_steps


def kept_training(asked: Mapping[str, str]) -> dict[str, Any]:
    """{"kept": {"resume": the save_name to go on under, "step": of the state, "steps": of the
    training}}, null where no state is there, or it has all steps.

    asked: a node's type and those of its inputs that tell its training: save_name, role, method,
    steps or effort. CraftError where they tell none, or the state cannot be read.
    """
    recipe = _recipe(asked)
    slots: DataSlots = recipe.traits.slots
    role = _one_of(ROLE, asked, ROLES) if slots.of(RoleSlot) else ""
    part = slots.state_part(role, recipe.key)
    steps = _steps(recipe, asked)
    name, path = kept_state(asked.get("save_name", ""), slots.folder, part)
    step = state_steps(path) if path.is_file() else steps
    kept = {"resume": name, "step": step, "steps": steps}
    return {"kept": kept if step < steps else None}


def _recipe(asked: Mapping[str, str]) -> Method:
    if "method" in asked:
        return LEARNED[asked["method"]]
    found = {
        texts.node_id: recipe
        for recipe in TRAINING
        for texts in (recipe.traits.slots.node, recipe.traits.slots.from_pictures)
        if texts
    }
    return found[_one_of("node", asked, found)]


def _steps(recipe: Method, asked: Mapping[str, str]) -> int:
    if "effort" in asked:
        return effort_steps(recipe, _one_of("effort", asked, EFFORTS))
    (own,) = [knob for knob in recipe.parameters if knob.name == "steps"]
    return own.read(asked.get("steps", ""), recipe.key)


def _one_of(name: str, asked: Mapping[str, str], known: Any) -> str:
    value = asked.get(name, "")
    if value not in known:
        raise CraftError(
            f"{name} = {value[:100]!r}", f"It can be one of {listed(known)}", "Choose one of these"
        )
    return value
