"""Every training recipe has a node, and the node asks for what the recipe declares."""

from __future__ import annotations

import inspect

import pytest
from craft_lora_pack.craft_core.training import TRAINING
from craft_lora_pack.craft_core.training.slots import LayerSlot, PictureSlot
from craft_lora_pack.nodes import NODES, training
from craft_lora_pack.nodes.training import TRAINING_NODES

every_recipe = pytest.mark.parametrize("recipe", list(TRAINING), ids=lambda one: one.key)


def ids(recipe) -> list[str]:
    return [one.id for one in TRAINING_NODES[recipe.key].define_schema().inputs]


def test_every_recipe_has_its_node_among_those_of_the_pack():
    assert set(TRAINING_NODES) == set(TRAINING.keys())
    assert set(TRAINING_NODES.values()) <= set(NODES)


@every_recipe
def test_a_node_has_an_input_for_every_slot_and_every_knob_and_each_once(recipe):
    slots, inputs = recipe.traits.slots, ids(recipe)
    wanted = {slot.key for slot in slots.slots if not isinstance(slot, PictureSlot)}
    for slot in slots.of(PictureSlot):
        wanted |= {slot.images_input, slot.captions_input}
    wanted |= {parameter.name for parameter in recipe.parameters}
    assert wanted <= set(inputs) and len(set(inputs)) == len(inputs)
    usual = {"model", "clip", "vae", "save_name", "precision", "gradient_checkpointing", "resume"}
    assert set(inputs) - wanted - usual <= {"branches", "size", "resize"}
    assert inputs[-2:] == ["size", "resize"], "a graph that was saved without them opens unchanged"


@every_recipe
def test_what_must_be_given_comes_before_what_need_not_be(recipe):
    optional = [bool(one.optional) for one in TRAINING_NODES[recipe.key].define_schema().inputs]
    assert optional == sorted(optional)


@every_recipe
def test_tooltips_are_of_sockets_that_the_node_has(recipe):
    schema = TRAINING_NODES[recipe.key].define_schema()
    sockets = {one.id: one.tooltip for one in (*schema.inputs, *schema.outputs)}
    texts = recipe.traits.slots.node.tooltips
    assert {name: sockets.get(name) for name in texts} == texts


@every_recipe
def test_the_host_itself_checks_all_but_the_name_and_the_captions(recipe):
    """It leaves out of its own checks what validate_inputs names, and all where that takes any."""
    node, slots = TRAINING_NODES[recipe.key], recipe.traits.slots
    read = inspect.getfullargspec(node.validate_inputs)
    captions = [slot.captions_input for slot in slots.of(PictureSlot) if slot.required]
    assert read.args == ["cls", "save_name", *captions] and read.varkw is None
    assert read.kwonlyargs == ["layer_sets"] * bool(slots.of(LayerSlot))


@every_recipe
def test_a_mistake_is_told_before_it_is_queued(recipe):
    node, slots = TRAINING_NODES[recipe.key], recipe.traits.slots
    menu = {"layer_sets": {"layer_sets": "all"}} if slots.of(LayerSlot) else {}
    captions = {
        s.captions_input: ["<c>a</c> <s>b</s>"] for s in slots.of(PictureSlot) if s.required
    }
    good = {"save_name": ["one"], **captions, **menu}
    assert node.validate_inputs(**good) is True
    assert "save_as" in node.validate_inputs(**{**good, "save_name": ["../one"]})
    for name in captions:
        assert "empty" in node.validate_inputs(**{**good, name: [""]})
    if menu:
        assert "layer_sets" in node.validate_inputs(**{**good, "layer_sets": None})


@every_recipe
def test_pictures_and_captions_may_be_given_by_position(recipe, monkeypatch):
    """Those that must be given first: all images, then all captions; then each other pair."""
    seen = []

    def stop(slots, inputs):
        seen.append(inputs)
        raise InterruptedError

    monkeypatch.setattr(training, "filled_slots", stop)
    pictures = recipe.traits.slots.of(PictureSlot)
    must, may = ([s for s in pictures if s.required is wanted] for wanted in (True, False))
    names = [s.images_input for s in must] + [s.captions_input for s in must]
    names += [name for s in may for name in (s.images_input, s.captions_input)]
    for count in (0, len(must), len(names)):
        with pytest.raises(InterruptedError):
            TRAINING_NODES[recipe.key].execute("m", "c", "v", *names[:count], seed=1)
        given = {name: name for name in names[:count]}
        assert seen[-1] == {"model": "m", "clip": "c", "vae": "v", "seed": 1, **given}
