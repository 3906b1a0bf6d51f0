"""Every training declares its data well: from it come a node's inputs, flags and a request."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest
from craft_lora_pack.craft_core.training import LEARNED, TRAINING, training_of
from craft_lora_pack.craft_core.training.slots import (
    DataSlots,
    LayerSlot,
    LoraSlot,
    PictureSlot,
    RoleSlot,
    TextSlot,
    UnmatchedSlot,
)

ROOT = Path(__file__).parents[3]
TRAININGS = [*TRAINING, *LEARNED]
KINDS = (RoleSlot, LayerSlot, LoraSlot, TextSlot, UnmatchedSlot)
every_training = pytest.mark.parametrize("method", TRAININGS, ids=lambda one: one.key)


def test_no_key_belongs_to_two_trainings():
    keys = [method.key for method in TRAININGS]
    assert len(set(keys)) == len(keys)
    assert all(training_of(method.key) is method for method in TRAININGS)


def test_a_command_belongs_to_one_set_of_slots():
    sets = {id(method.traits.slots): method.traits.slots.command for method in TRAININGS}
    assert len(set(sets.values())) == len(sets)


@every_training
def test_slots_are_told_apart_from_each_other_and_from_the_knobs(method):
    slots: DataSlots = method.traits.slots
    pictures = slots.of(PictureSlot)
    names = [slot.key for slot in slots.slots if not isinstance(slot, PictureSlot)]
    names += [name for slot in pictures for name in (slot.images_input, slot.captions_input)]
    names += [parameter.name for parameter in method.parameters]
    assert len(set(names)) == len(names)
    assert len({slot.key for slot in slots.slots}) == len(slots.slots)
    assert all(len(slots.of(kind)) <= 1 for kind in KINDS)
    assert set(slots.crossed) <= {slot.key for slot in pictures}


@every_training
def test_a_slot_says_what_it_is(method):
    for slot in method.traits.slots.slots:
        for field in fields(slot):
            if field.name in ("key", "noun", "help", "tooltip"):
                assert getattr(slot, field.name).strip(), (slot, field.name)
        if isinstance(slot, PictureSlot):
            assert slot.required == bool(slot.example), "a required caption has an example"
            assert slot.required or slot.captions_tooltip


@pytest.mark.parametrize("room", ["nodes", "comfy_adapter", "cli", "web/js"])
def test_no_room_but_the_core_names_a_training(room):
    """Node, command and request are made of what a recipe declares."""
    files = [path for path in (ROOT / room).rglob("*") if path.suffix in (".py", ".js")]
    assert files
    for method in TRAINING:
        names = (method.traits.slots.node.node_id, f'TRAINING["{method.key}"]')
        for path in files:
            text = path.read_text("utf-8")
            assert [name for name in names if name in text] == [], path


@every_training
def test_a_training_has_a_node_of_its_own_or_a_menu_with_others(method):
    assert (method.traits.slots.node is None) == (method.key in LEARNED.keys())


@every_training
def test_there_are_pictures_and_one_way_to_read_them(method):
    slots: DataSlots = method.traits.slots
    assert any(slot.required for slot in slots.of(PictureSlot))
    assert (slots.arrange is None) == bool(slots.reader)
    assert slots.save_name and slots.folder and slots.usage and slots.example
    assert slots.state.format(role="content", method=method.key).replace("_", "").isalnum() or (
        not slots.state
    )
