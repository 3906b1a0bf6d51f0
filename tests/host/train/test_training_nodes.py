"""Every training recipe has a node, and the node asks for what the recipe declares."""

from __future__ import annotations

import inspect
import time

import pytest
from budget import BUDGET, SLOWER
from craft_lora_pack.comfy_adapter.train import data
from craft_lora_pack.comfy_adapter.train.data import MOST_CAPTIONS, MOST_MARKERS_OF_ALL
from craft_lora_pack.craft_core.routing.markers import parse
from craft_lora_pack.craft_core.training import TRAINING
from craft_lora_pack.craft_core.training.slots import LayerSlot, PictureSlot, RoleSlot
from craft_lora_pack.craft_core.types import ROLES
from craft_lora_pack.nodes import NODES, training
from craft_lora_pack.nodes.training import FROM_PICTURES, TRAINING_NODES


class Seen(BaseException):
    """Ends a node's run once its inputs are seen; nothing turns it into another error."""


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
    last = ["size", "resize", *["sample_every"] * slots.samples]
    assert set(inputs) - wanted - usual <= {"branches", *last}
    assert inputs[-len(last) :] == last, "a graph that was saved without them opens unchanged"


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
        raise Seen

    monkeypatch.setattr(training, "filled_slots", stop)
    pictures = recipe.traits.slots.of(PictureSlot)
    must, may = ([s for s in pictures if s.required is wanted] for wanted in (True, False))
    names = [s.images_input for s in must] + [s.captions_input for s in must]
    names += [name for s in may for name in (s.images_input, s.captions_input)]
    for count in (0, len(must), len(names)):
        with pytest.raises(Seen):
            TRAINING_NODES[recipe.key].execute("m", "c", "v", *names[:count], seed=1)
        given = {name: name for name in names[:count]}
        assert seen[-1] == {"model": "m", "clip": "c", "vae": "v", "seed": 1, **given}


every_front = pytest.mark.parametrize("key", list(FROM_PICTURES))


def front_words(key, captions="", trigger="sks", class_word="dog"):
    """Trigger, class word and captions of every kind of pictures that the node asks for."""
    slots = [one for one in TRAINING[key].traits.slots.of(PictureSlot) if one.required]
    given = {}
    for slot in slots:
        values = (trigger, class_word, captions)
        names = (slot.trigger_input, slot.class_word_input, slot.captions_input)
        given |= {name: [value] for name, value in zip(names, values, strict=True)}
    return given


def front_inputs(key, **changes):
    slots = TRAINING[key].traits.slots
    images = {one.images_input: ["p"] for one in slots.of(PictureSlot) if one.required}
    role = {"role": ["style"]} if slots.of(RoleSlot) else {}
    return {
        **images, **role, **front_words(key), "layer_sets": {"layer_sets": ["b-lora"]},
        "effort": ["quick"], "save_name": ["one"], "resume": [False], **changes,
    }  # fmt: skip


@every_front
def test_a_node_from_pictures_asks_for_little_and_gives_what_the_training_does(key):
    """Nothing but words of its own that the training's node does not have."""
    front, whole = FROM_PICTURES[key].define_schema(), TRAINING_NODES[key].define_schema()
    assert [one.id for one in front.outputs] == [one.id for one in whole.outputs]
    own = {one.id for one in front.inputs} - {one.id for one in whole.inputs}
    assert own == {"effort", *(name for name in front_words(key) if "captions" not in name)}
    assert len(front.inputs) < len(whole.inputs) and FROM_PICTURES[key] in NODES


@every_front
def test_a_node_from_pictures_is_the_trainings_node_with_its_usual_settings(key, monkeypatch):
    seen = {}

    def stop(slots, inputs):
        seen.update(inputs)
        raise Seen

    monkeypatch.setattr(training, "filled_slots", stop)
    with pytest.raises(Seen):
        FROM_PICTURES[key].execute(["m"], ["c"], ["v"], **front_inputs(key))
    needed = {one.id for one in TRAINING_NODES[key].define_schema().inputs if not one.optional}
    assert set(seen) == needed
    for parameter in TRAINING[key].parameters:
        usual = 300 if parameter.name == "steps" else parameter.default
        assert seen[parameter.name] == [usual], parameter.name
    for slot in TRAINING[key].traits.slots.of(PictureSlot):
        if slot.required:
            mark = "<c>sks dog</c>" if slot.key == "content" else "<s>sks dog</s>"
            (caption,) = seen[slot.captions_input]
            assert mark in caption


@every_front
def test_a_node_from_pictures_tells_mistakes_before_they_are_queued(key):
    node = FROM_PICTURES[key]
    role = {"role": ["style"]} if TRAINING[key].traits.slots.of(RoleSlot) else {}
    words = {**front_words(key), **role}
    good = {"save_name": ["one"], **words, "layer_sets": {"layer_sets": "all"}}
    assert node.validate_inputs(**good) is True
    assert "trigger" in node.validate_inputs(**{**good, **front_words(key, trigger=" ")})
    assert "marks no words" in node.validate_inputs(**{**good, **front_words(key, "<c></c> a")})
    assert "save_as" in node.validate_inputs(**{**good, "save_name": ["../one"]})
    assert "layer_sets" in node.validate_inputs(**{**good, "layer_sets": None})
    linked = {name: [None] for name in front_words(key)}
    assert node.validate_inputs(**{**good, **linked}) is True
    read = inspect.getfullargspec(node.validate_inputs)
    assert set(read.args) == {"cls", "save_name", *words} and read.varkw is None


@pytest.mark.parametrize("role", ROLES)
def test_a_node_from_pictures_reads_captions_and_trigger_as_those_of_its_role(role):
    """One that is right for its role is not refused, and what is wrong is said of its role."""
    node, mark = FROM_PICTURES["lora"], {"content": "c", "style": "s"}[role]
    given = {
        "save_name": ["one"], "role": [role], "layer_sets": {"layer_sets": "all"},
        **front_words("lora", f"in <{mark}>[trigger]</{mark}>"),
    }  # fmt: skip
    assert node.validate_inputs(**given) is True
    assert f"trigger of the {role}" in node.validate_inputs(**{**given, "trigger": [""]})
    assert "role" in node.validate_inputs(**{**given, "role": ["both"]})
    assert node.validate_inputs(**{**given, "role": [None]}) is True


SIZE = 15_900_000
CAPTIONS = {
    "lines": "a\n" * (SIZE // 2),
    "as many as may be": "a\n" * MOST_CAPTIONS,
    "one line": "x " * (SIZE // 2) + "<c>a</c>" * 500,
    "one wide line": "\U0001f600" + "x " * (SIZE // 2) + "<c>a</c>" * 500,
    "markers": "<c>a</c>\n" * (SIZE // 9),
    "markers in lines": ("<c>a</c>" * 400 + "\n") * (SIZE // 3200),
    "as many markers as may be": ("<c>a</c>" * 500 + "\n") * (MOST_MARKERS_OF_ALL // 1000),
    "triggers": "[trigger]" * (SIZE // 9),
    "triggers in lines": "[trigger]\n" * MOST_CAPTIONS,
}


@pytest.mark.parametrize("name", CAPTIONS)
def test_captions_of_any_size_are_checked_within_their_budget(name):
    """The host's event loop waits for it."""
    given = {"save_name": ["one"], "role": ["content"], "layer_sets": {"layer_sets": "all"}}
    both = (
        (TRAINING_NODES["lora"], {**given, "captions": [CAPTIONS[name]]}),
        (FROM_PICTURES["lora"], {**given, **front_words("lora", CAPTIONS[name])}),
    )
    for node, inputs in both:
        known = inspect.getfullargspec(node.validate_inputs)
        inputs = {
            key: value for key, value in inputs.items() if key in known.args + known.kwonlyargs
        }
        start = time.process_time()
        answer = node.validate_inputs(**inputs)
        assert time.process_time() - start < BUDGET * SLOWER
        assert answer is True or answer.count(".") >= 2


def test_a_caption_for_many_images_is_read_once(monkeypatch):
    read = []
    monkeypatch.setattr(data, "parse", lambda text: read.append(text) or parse(text))
    assert len(data.marked_captions(["<c>a</c>"], 500, "training")) == 500 and len(read) == 1
