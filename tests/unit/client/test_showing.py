"""A prompt's values in the page's workflow: it becomes that prompt, and nothing else of it changes.

The law that `restored` looks at holds for every single change; the tests beside it say where a
value is written.
"""

from __future__ import annotations

import pytest
from craft_lora_pack.client.address import Inputs, NodeInput
from craft_lora_pack.client.to_page.showing import showing
from craft_lora_pack.client.widgets import with_widget_values
from craft_lora_pack.client.workflow import to_prompt
from laws.restoring import restored, single_changes

SPEEDS = [
    {"key": "slow", "inputs": {"required": {"by": ["FLOAT", {"default": 0.5}]}}},
    {"key": "fast", "inputs": {"optional": {"seed": ["INT", {"control_after_generate": True}]}}},
]
METHODS = [
    {"key": "plain", "inputs": {}},
    {
        "key": "near",
        "inputs": {
            "required": {"top": ["FLOAT", {"default": 0.5}], "mask": ["MASK"]},
            "optional": {"shape": ["COMBO", {"options": ["a", "b"]}]},
        },
    },
    {
        "key": "far",
        "inputs": {
            "required": {
                "top": ["FLOAT", {"default": 0.75}],
                "speed": ["COMFY_DYNAMICCOMBO_V3", {"options": SPEEDS}],
            }
        },
    },
]
INFO = {
    "Load": {
        "input": {
            "required": {"name": [["x.png", "y.png"], {"image_upload": True}]},
            "optional": {"alpha": ["BOOLEAN", {"default": True}]},
        }
    },
    "Number": {"input": {"required": {"value": ["INT", {"default": 1}]}}},
    "Sample": {
        "input": {
            "required": {
                "image": ["IMAGE"],
                "seed": ["INT", {"default": 0}],
                "steps": ["INT", {"default": 20}],
                "method": ["COMFY_DYNAMICCOMBO_V3", {"options": METHODS}],
                "linked": ["FLOAT", {"forceInput": True}],
                "name": ["STRING", {"default": "end"}],
            },
            "optional": {"curve": ["CURVE", {"default": []}]},
        }
    },
    "Show": {"input": {"required": {"images": ["IMAGE"]}}},
}
NEAR = [1, "randomize", 4, "near", 0.25, "b", "tail", [[0.0, 1.0]]]


def slot(name, link=None, widget=True, kind="INT"):
    return {
        "name": name,
        "type": kind,
        "link": link,
        **({"widget": {"name": name}} if widget else {}),
    }


def picture(link, name="image"):
    return slot(name, link, widget=False, kind="IMAGE")


def node(number, kind, inputs=(), values=None, links=(), **more):
    outputs = [{"name": "out", "type": "*", "links": list(links)}]
    one = {
        "id": number,
        "type": kind,
        "mode": 0,
        "inputs": list(inputs),
        "outputs": outputs,
        **more,
    }
    return one if values is None else {**one, "widgets_values": values}


def link(number, origin, origin_slot, target, target_slot):
    names = ("id", "origin_id", "origin_slot", "target_id", "target_slot")
    return dict(zip(names, (number, origin, origin_slot, target, target_slot), strict=True))


def flow(*nodes, links=(), definitions=()):
    return {
        "nodes": list(nodes),
        "links": [[*one, "*"] for one in links],
        "definitions": {"subgraphs": list(definitions)},
        "extra": {"ds": {}},
    }


def plain():
    """Load -> Sample, with a mask for the method, and a Sample that has saved next to nothing."""
    near = node(2, "Sample", [picture(1), slot("method.mask", 2, False, "MASK")], NEAR)
    return flow(
        node(1, "Load", (), ["y.png", "image", False], [1, 2]),
        near,
        node(3, "Sample", (), [5]),
        node(4, "Sample", (), [7, "fixed", 30, "far", 0.1, "fast", 9, "increment", "tail", []]),
        links=[(1, 1, 0, 2, 0), (2, 1, 1, 2, 1)],
    )


def fed():
    """A primitive and a Number, each for two inputs, the primitive also through a reroute."""
    return flow(
        node(1, "PrimitiveNode", (), [12, "fixed"], [1, 2]),
        node(2, "Number", (), [3], [4, 5]),
        node(3, "Reroute", [picture(2, "")], None, [3]),
        node(4, "Sample", [slot("seed", 4), slot("steps", 1)], NEAR),
        node(5, "Sample", [slot("steps", 3), slot("seed", 5)], NEAR),
        links=[(1, 1, 0, 4, 1), (2, 1, 0, 3, 0), (3, 3, 0, 5, 0), (4, 2, 0, 4, 0), (5, 2, 0, 5, 1)],
    )


def inner():
    """Two Samples that have their steps from outside; the second has its seed from a primitive."""
    return {
        "id": "inner", "name": "Inner",
        "inputs": [
            {"id": "a", "name": "steps", "type": "INT", "linkIds": [1, 2]},
            {"id": "b", "name": "image", "type": "IMAGE", "linkIds": [3]},
            {"id": "c", "name": "name", "type": "STRING", "linkIds": [5]},
        ],
        "outputs": [],
        "nodes": [
            node(5, "Sample", [slot("steps", 1), slot("name", 5, kind="STRING")], NEAR),
            node(6, "Sample", [slot("steps", 2), picture(3), slot("seed", 4)], NEAR),
            node(7, "PrimitiveNode", (), [8, "fixed"], [4]),
        ],
        "links": [
            link(1, -10, 0, 5, 0), link(2, -10, 0, 6, 0), link(3, -10, 1, 6, 1),
            link(4, 7, 0, 6, 2), link(5, -10, 2, 5, 1),
        ],
    }  # fmt: skip


def instance(number, kind, image, values=None, count=None):
    inputs = [slot("steps", count), picture(image), slot("name", kind="STRING")]
    return node(number, kind, inputs, values)


def once(values=None):
    return flow(
        node(1, "Load", (), ["x.png"], [1]),
        instance(2, "inner", 1, values),
        links=[(1, 1, 0, 2, 1)],
        definitions=[inner()],
    )


def twice(values=None, count=None):
    """Two instances of the same subgraph, and one that is muted; a Number for the steps of one."""
    return flow(
        node(1, "Load", (), ["x.png"], [1]),
        instance(2, "inner", 1, values, count),
        instance(3, "inner", None, values),
        node(4, "Number", (), [3], [2] if count else []),
        {**instance(9, "inner", None, values), "mode": 2},
        links=[(1, 1, 0, 2, 1), *([(2, 4, 0, 2, 0)] if count else [])],
        definitions=[inner()],
    )


def nested(values=None, inner_values=None):
    """Two instances of a subgraph with two instances of another, whose steps it shows as its own;
    the other is also in the root."""
    outer = {
        "id": "outer", "name": "Outer",
        "inputs": [
            {"id": "a", "name": "image", "type": "IMAGE", "linkIds": [1]},
            {"id": "b", "name": "steps", "type": "INT", "linkIds": [2, 3]},
        ],
        "outputs": [],
        "nodes": [
            instance(10, "inner", 1, inner_values, 2),
            instance(11, "inner", None, inner_values, 3),
            node(12, "Sample", (), NEAR),
        ],
        "links": [link(1, -10, 0, 10, 1), link(2, -10, 1, 10, 0), link(3, -10, 1, 11, 0)],
    }  # fmt: skip
    both = [picture(None), slot("steps")]
    return flow(
        node(20, "outer", both, values),
        node(21, "outer", both, values),
        instance(22, "inner", None, inner_values),
        definitions=[inner(), outer],
    )


MADE = {
    "plain": plain(),
    "fed": fed(),
    "once": once(),
    "once with saved values": once([33, "mine"]),
    "once with values by name": once({"steps": 33}),
    "twice": twice(),
    "twice with saved values": twice([33, "mine"]),
    "twice, fed from outside": twice([33, "mine"], 2),
    "nested": nested(),
    "nested with saved values": nested([44], [33, "mine"]),
    "nested with some saved": nested(None, [33, "mine"]),
}


@pytest.mark.parametrize("workflow", MADE.values(), ids=MADE)
def test_every_single_change_is_restored_exactly_and_the_workflow_kept(workflow):
    changes = list(single_changes(workflow, INFO))
    assert len(changes) > 10
    for name, text in changes:
        restored(workflow, INFO, {name: text})


@pytest.mark.parametrize("workflow", MADE.values(), ids=MADE)
def test_many_changes_at_once_are_restored_exactly(workflow):
    changes = dict(single_changes(workflow, INFO))
    whole = {name: text for name, text in changes.items() if ".method." not in name}
    restored(workflow, INFO, whole)
    for kept in (0, 1):
        restored(workflow, INFO, dict(list(whole.items())[kept::2]))


def nodes_of(graph):
    return {one["id"]: one for one in graph["nodes"]}


def definitions_of(shown):
    return {one["id"]: one for one in shown["definitions"]["subgraphs"]}


def test_a_subgraph_that_stands_once_keeps_its_definition():
    shown, _ = restored(once(), INFO, {"2:6.name": "new"})
    definitions = definitions_of(shown)
    assert list(definitions) == ["inner"]
    assert nodes_of(definitions["inner"])[6]["widgets_values"] == [*NEAR[:6], "new", NEAR[7]]
    assert nodes_of(shown)[2]["type"] == "inner"


def test_one_of_several_instances_gets_a_definition_of_its_own():
    shown, _ = restored(twice(), INFO, {"2:6.name": "new"})
    nodes, definitions = nodes_of(shown), definitions_of(shown)
    assert [nodes[number]["type"] for number in (3, 9)] == ["inner", "inner"]
    assert definitions["inner"] == inner()
    (own,) = [one for name, one in definitions.items() if name != "inner"]
    assert nodes[2]["type"] == own["id"] and own["name"] == "Inner"
    assert nodes_of(own)[6]["widgets_values"][6] == "new"
    again, _ = restored(twice(), INFO, {"2:6.name": "new"})
    assert again == shown  # the same command gives the same workflow


def test_instances_that_are_changed_alike_share_a_definition():
    workflow = twice()
    workflow["nodes"].pop()  # the muted one
    shown, _ = restored(workflow, INFO, {"2:6.name": "new", "3:6.name": "new"})
    assert list(definitions_of(shown)) == ["inner"]
    shown, _ = restored(workflow, INFO, {"2:6.name": "new", "3:6.name": "newer"})
    assert len(definitions_of(shown)) == 2 and "inner" in definitions_of(shown)


def test_a_value_in_nested_subgraphs_changes_the_way_to_it_alone():
    shown, _ = restored(nested(), INFO, {"20:10:5.name": "new"})
    nodes, definitions = nodes_of(shown), definitions_of(shown)
    assert len(definitions) == 4
    assert nodes[21]["type"] == "outer" and nodes[22]["type"] == "inner"
    own = nodes_of(definitions[nodes[20]["type"]])
    assert own[11]["type"] == "inner" and own[10]["type"] not in ("inner", "outer")


def test_a_value_that_a_subgraph_shows_is_written_where_the_page_reads_it():
    both = {"2:5.steps": "9", "2:6.steps": "9"}
    shown, _ = restored(once([33, "mine"]), INFO, both)
    assert nodes_of(shown)[2]["widgets_values"] == [9, "mine"]
    assert definitions_of(shown) == {"inner": inner()}
    shown, _ = restored(once({"steps": 33}), INFO, both)
    assert nodes_of(shown)[2]["widgets_values"] == {"steps": 9}
    shown, _ = restored(once(), INFO, both)
    assert nodes_of(definitions_of(shown)["inner"])[5]["widgets_values"][2] == 9
    assert "widgets_values" not in nodes_of(shown)[2]


def test_an_input_that_leaves_the_shown_value_to_another_has_its_own():
    shown, _ = restored(once([33, "mine"]), INFO, {"2:5.steps": "9"})
    assert nodes_of(shown)[2]["widgets_values"] == [33, "mine"]
    definition = definitions_of(shown)["inner"]
    assert definition["inputs"][0]["linkIds"] == [2]
    assert nodes_of(definition)[5]["inputs"][0] == slot("steps")
    shown, _ = restored(once([33, "mine"]), INFO, {"2:5.steps": "9", "2:6.steps": "8"})
    assert nodes_of(shown)[2]["widgets_values"] == ["mine"]
    assert "widget" not in nodes_of(shown)[2]["inputs"][0]


def showing_also(name):
    """A subgraph once, with saved values, that shows one more input, of a Sample of its own."""
    workflow = once([33, "mine", 0.75])
    definition = workflow["definitions"]["subgraphs"][0]
    definition["inputs"].append({"id": "d", "name": "more", "type": "*", "linkIds": [6]})
    definition["nodes"].append(node(8, "Sample", [slot(name, 6)], NEAR))
    definition["links"].append(link(6, -10, 3, 8, 0))
    workflow["nodes"][1]["inputs"].append(slot("more"))
    return workflow


def test_shown_values_stay_with_their_inputs_where_another_is_no_longer_shown():
    changes = {"2:5.steps": "9", "2:6.steps": "8", "2:8.method.top": "0.625"}
    shown, _ = restored(showing_also("method.top"), INFO, changes)
    assert nodes_of(shown)[2]["widgets_values"] == ["mine", 0.625]


def test_a_shown_widget_that_the_new_entry_does_not_bring_is_not_shown():
    shown, _ = restored(showing_also("method.top"), INFO, {"2:8.method": "plain"})
    assert nodes_of(shown)[2]["widgets_values"] == [33, "mine"]
    assert definitions_of(shown)["inner"]["inputs"][3]["linkIds"] == []


def test_a_primitive_takes_the_value_if_all_that_it_feeds_have_it():
    shown, _ = restored(fed(), INFO, {"4.steps": "9", "5.steps": "9"})
    assert nodes_of(shown)[1]["widgets_values"] == [9, "fixed"]
    assert shown["links"] == fed()["links"]
    shown, _ = restored(fed(), INFO, {"4.steps": "9"})
    assert nodes_of(shown)[1]["widgets_values"] == [12, "fixed"]
    assert nodes_of(shown)[1]["outputs"][0]["links"] == [2]


def test_a_value_in_place_of_a_link_cuts_it_at_both_ends():
    shown, _ = restored(fed(), INFO, {"4.seed": "9"})
    nodes = nodes_of(shown)
    assert nodes[4]["inputs"] == [slot("seed"), slot("steps", 1)]
    assert nodes[4]["widgets_values"] == [9, *NEAR[1:]]
    assert nodes[2]["outputs"][0]["links"] == [5]
    assert [one[0] for one in shown["links"]] == [1, 2, 3, 5]


def test_another_entry_of_a_list_brings_its_widgets_and_keeps_the_others():
    def values(changes, number=2):
        return nodes_of(restored(plain(), INFO, changes)[0])[number]["widgets_values"]

    start, end = [1, "randomize", 4], ["tail", [[0.0, 1.0]]]
    assert values({"2.method": "plain"}) == [*start, "plain", *end]
    assert values({"2.method": "far"}) == [*start, "far", 0.25, "slow", 0.5, *end]
    assert values({"2.method": "far", "2.method.speed": "fast"}) == [
        *start, "far", 0.25, "fast", 0, "fixed", *end,
    ]  # fmt: skip
    assert values({"2.method": "far", "2.method.top": "0.1"})[4] == 0.1
    assert values({"4.method": "near"}, 4) == [7, "fixed", 30, "near", 0.1, "a", "tail", []]
    assert values({"3.method": "near"}, 3) == [5, "fixed", 20, "near", 0.5, "a", "end", []]


def test_a_link_that_only_the_former_entry_takes_is_cut():
    shown, _ = restored(plain(), INFO, {"2.method": "plain"})
    assert [one[0] for one in shown["links"]] == [1]


def test_a_missing_upload_button_is_written_with_what_comes_after_it():
    one = node(1, "Load", (), ["x.png"])
    assert with_widget_values(one, INFO["Load"], {"alpha": False}) == ["x.png", "image", False]


def changed(workflow, node_id, name, value):
    base = to_prompt(workflow, INFO)
    inputs = {**base[node_id]["inputs"], name: value}
    return showing(workflow, base, {**base, node_id: {**base[node_id], "inputs": inputs}}, INFO)


def test_what_has_no_widget_is_not_shown():
    assert changed(plain(), "2", "linked", 3.0) is None
    assert changed(plain(), "2", "image", 3.0) is None
    assert changed(plain(), "2", "unheard", 3.0) is None
    assert changed(plain(), "2", "image", ["3", 0]) is None


def test_what_is_damaged_is_not_shown():
    workflow = fed()
    workflow["nodes"][1]["outputs"] = [5]
    assert changed(workflow, "4", "steps", 9) is not None
    assert changed(workflow, "4", "seed", 9) is None


def test_a_value_inside_a_group_node_is_not_shown():
    group = {"nodes": [{"type": "Number", "widgets_values": [1]}], "links": []}
    workflow = {**flow(node(1, "workflow>g", (), [5])), "extra": {"groupNodes": {"g": group}}}
    assert to_prompt(workflow, INFO)["1:0"]["inputs"] == {"value": 5}
    assert changed(workflow, "1:0", "value", 6) is None


def test_a_prompt_of_other_nodes_is_not_shown():
    base = to_prompt(plain(), INFO)
    assert showing(plain(), base, {"1": base["1"]}, INFO) is None


def test_what_does_not_change_is_shared_with_the_workflow():
    workflow = twice()
    base = to_prompt(workflow, INFO)
    assert showing(workflow, base, base, INFO) is workflow
    prompt = Inputs(base, INFO).with_values({NodeInput("1", "name"): "y.png"})
    shown = showing(workflow, base, prompt, INFO)
    assert shown["definitions"] is workflow["definitions"]
    assert shown["nodes"][1] is workflow["nodes"][1]
