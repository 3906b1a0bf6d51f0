"""A group node of an older page becomes what it holds."""

import copy

import pytest
from craft_lora_pack.client.workflow import dynamic_texts, to_prompt
from craft_lora_pack.craft_core.errors import CraftError

SEED = ["INT", {"default": 0, "control_after_generate": True}]
TEXT = ["STRING", {"multiline": True, "dynamicPrompts": True}]
INFO = {
    "Load": {
        "input": {"required": {"name": [["x.png", "y.png"], {"image_upload": True}]}},
        "output": ["IMAGE", "MASK"],
    },
    "Encode": {
        "input": {"required": {"clip": ["CLIP"], "text": TEXT}},
        "output": ["CONDITIONING"],
    },
    "Sample": {
        "input": {
            "required": {
                "image": ["IMAGE"],
                "seed": SEED,
                "steps": ["INT", {"default": 20}],
                "positive": ["CONDITIONING"],
                "negative": ["CONDITIONING"],
            }
        },
        "output": ["IMAGE"],
    },
    "Clip": {"input": {"required": {"file": [["a", "b"]]}}, "output": ["CLIP"]},
    "Show": {"input": {"required": {"images": ["IMAGE"]}}, "output": []},
}


def slot(name, kind, **more):
    return {"name": name, "type": kind, "link": None, **more}


ENCODE = {"type": "Encode", "inputs": [slot("clip", "CLIP")], "widgets_values": ["own"]}
GROUP = {
    "nodes": [
        {"type": "Load", "inputs": [], "widgets_values": ["x.png", "image"]},
        {**ENCODE, "title": "Positive"},
        {**ENCODE, "title": "Negative"},
        {
            "type": "Sample",
            "inputs": [slot("image", "IMAGE"), slot("positive", "CONDITIONING"),
                       slot("negative", "CONDITIONING")],
            "widgets_values": [1, "fixed", 2],
        },
    ],
    "links": [[0, 0, 3, 0, 1, "IMAGE"], [1, 0, 3, 1, 2, "CONDITIONING"],
              [2, 0, 3, 2, 3, "CONDITIONING"]],
    "external": [],
}  # fmt: skip
VALUES = ["y.png", "image", "a cat", "bad", 7, "randomize", 30]


def workflow(group=GROUP, values=VALUES, kind="workflow>Mine", **instance):
    """Clip -> the group's two encoders; the picture of its sampler -> Show."""
    nodes = [
        {"id": 1, "type": "Clip", "widgets_values": ["b"]},
        {
            "id": 5,
            "type": kind,
            "widgets_values": values,
            "inputs": [slot("clip", "CLIP"), slot("Negative clip", "CLIP")],
            "outputs": [{"type": "MASK"}, {"type": "IMAGE"}],
            **instance,
        },
        {"id": 6, "type": "Show", "inputs": [slot("images", "IMAGE")]},
    ]
    nodes[1]["inputs"][0]["link"], nodes[1]["inputs"][1]["link"] = 1, 2
    nodes[2]["inputs"][0]["link"] = 3
    links = [[1, 1, 0, 5, 0, "CLIP"], [2, 1, 0, 5, 1, "CLIP"], [3, 5, 1, 6, 0, "IMAGE"]]
    return {"nodes": nodes, "links": links, "extra": {"groupNodes": {"Mine": group}}}


def inputs_of(prompt):
    return {name: node["inputs"] for name, node in prompt.items()}


WHOLE = {
    "1": {"file": "b"},
    "5:0": {"name": "y.png"},
    "5:1": {"text": "a cat", "clip": ["1", 0]},
    "5:2": {"text": "bad", "clip": ["1", 0]},
    "5:3": {
        "image": ["5:0", 0],
        "seed": 7,
        "steps": 30,
        "positive": ["5:1", 0],
        "negative": ["5:2", 0],
    },
    "6": {"images": ["5:3", 0]},
}


@pytest.mark.parametrize("kind", ["workflow>Mine", "workflow/Mine"])
def test_a_group_node_becomes_what_it_holds_with_its_own_values_and_links(kind):
    given = workflow(kind=kind)
    before = copy.deepcopy(given)
    prompt = to_prompt(given, INFO)
    assert inputs_of(prompt) == WHOLE
    assert prompt["5:2"]["_meta"]["title"] == "Negative"
    assert given == before


def test_values_that_the_group_has_not_saved_are_those_inside():
    prompt = to_prompt(workflow(values=["y.png", "image"]), INFO)
    assert prompt["5:1"]["inputs"]["text"] == "own" and prompt["5:3"]["inputs"]["seed"] == 1


def test_a_widget_drawn_as_a_slot_takes_a_link_and_keeps_its_value_without_one():
    group = copy.deepcopy(GROUP)
    group["nodes"][3]["inputs"].append(slot("steps", "INT", widget={"name": "steps"}))
    given = workflow(group, values=VALUES[:-1])
    assert to_prompt(given, INFO)["5:3"]["inputs"]["steps"] == 2
    given["nodes"][1]["inputs"].append(slot("steps", "INT") | {"link": 4})
    given["links"].append([4, 1, 0, 5, 2, "INT"])
    assert to_prompt(given, INFO)["5:3"]["inputs"]["steps"] == ["1", 0]


def test_a_primitive_inside_gives_the_groups_value():
    group = copy.deepcopy(GROUP)
    group["nodes"][3]["inputs"].append(slot("steps", "INT", widget={"name": "steps"}))
    group["nodes"].append({"type": "PrimitiveNode", "widgets_values": [3, "fixed"]})
    group["links"].append([4, 0, 3, 3, 4, "INT"])
    given = workflow(group, values=[*VALUES[:-1], 12, "fixed"])
    assert to_prompt(given, INFO)["5:3"]["inputs"]["steps"] == 12


def test_a_reroute_inside_dissolves():
    group = copy.deepcopy(GROUP)
    group["nodes"].append({"type": "Reroute", "inputs": [slot("", "*")], "outputs": [{}]})
    group["links"][0] = [4, 0, 3, 0, 1, "IMAGE"]
    group["links"].append([0, 0, 4, 0, 4, "IMAGE"])
    assert inputs_of(to_prompt(workflow(group), INFO)) == WHOLE


def test_what_a_user_hid_and_showed_of_a_group_moves_its_outputs():
    group = {**GROUP, "config": {"0": {"output": {"1": {"visible": False}}}}}
    given = workflow(group)
    given["links"][2] = [3, 5, 0, 6, 0, "IMAGE"]
    assert inputs_of(to_prompt(given, INFO)) == WHOLE
    group = {**GROUP, "external": [[0, 0, "IMAGE"]]}  # the picture is led outside, too
    given = workflow(group)
    given["links"][2] = [3, 5, 0, 6, 0, "IMAGE"]
    assert to_prompt(given, INFO)["6"]["inputs"] == {"images": ["5:0", 0]}


def test_a_muted_group_node_runs_nothing():
    assert set(to_prompt(workflow(mode=2), INFO)) == {"1", "6"}


def test_the_page_draws_in_the_texts_of_a_group_node():
    assert dynamic_texts(workflow(), INFO) == {("5:1", "text"), ("5:2", "text")}


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        ({"extra": {}}, "group node 'Mine' .id 5. is empty"),
        ({"extra": {"groupNodes": {"Mine": {"nodes": [{"type": "workflow>In"}], "links": []}}}},
         "group node 'Mine' .id 5. holds another"),
    ],
)  # fmt: skip
def test_a_group_node_that_cannot_be_opened_is_named(broken, words):
    with pytest.raises(CraftError, match=words):
        to_prompt({**workflow(), **broken}, INFO)


def test_many_group_nodes_of_many_nodes_are_refused_at_once():
    group = {"nodes": [{"type": "Clip"}] * 20_000, "links": []}
    nodes = [{"id": number, "type": "workflow>Mine"} for number in range(5000)]
    given = {"nodes": nodes, "links": [], "extra": {"groupNodes": {"Mine": group}}}
    with pytest.raises(CraftError, match="more than 100000 nodes and links"):
        to_prompt(given, INFO)
