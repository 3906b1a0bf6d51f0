"""A workflow as the page saves it becomes the prompt that the page itself would send."""

import copy
import json
import time

import pytest
from craft_lora_pack.client.address import Inputs
from craft_lora_pack.client.to_page.showing import showing
from craft_lora_pack.client.workflow import dynamic_texts, read_both, read_workflow, to_prompt
from craft_lora_pack.craft_core.errors import CraftError

SEED = ["INT", {"default": 0, "control_after_generate": True}]
METHODS = [
    {"key": "plain", "inputs": {}},
    {
        "key": "k_lora",
        "inputs": {
            "required": {"top": ["FLOAT", {"default": 0.5}], "mask": ["MASK"]},
            "optional": {"shape": ["COMBO", {"options": ["a", "b"]}]},
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
    "Sample": {
        "input": {
            "required": {
                "model": ["MODEL", {}],
                "seed": SEED,
                "steps": ["INT", {"default": 20}],
                "method": ["COMFY_DYNAMICCOMBO_V3", {"options": METHODS}],
                "linked": ["FLOAT", {"forceInput": True}],
                "name": ["STRING", {"default": "end"}],
            },
            "optional": {"curve": ["CURVE", {"default": []}]},
            "hidden": {"unique_id": ["UNIQUE_ID"]},
        }
    },
    "Model": {"input": {"required": {"file": [["a", "b"]]}}},
    "Pass": {"input": {"required": {"image": ["IMAGE"], "model": ["MODEL"], "gain": ["FLOAT"]}}},
    "Show": {"input": {"required": {"images": ["IMAGE"]}}},
}


def node(number, kind, inputs=(), outputs=("IMAGE",), **more):
    entries = [
        {"name": name, "type": type_, "link": link, **({"widget": {"name": name}} if shown else {})}
        for name, type_, link, shown in (
            entry if len(entry) == 4 else (*entry, False) for entry in inputs
        )
    ]
    slots = [{"name": type_, "type": type_} for type_ in outputs]
    return {"id": number, "type": kind, "inputs": entries, "outputs": slots, "mode": 0} | more


def flow(*nodes, links=(), **more):
    return {"nodes": list(nodes), "links": [[*link, "*"] for link in links], **more}


def inputs_of(prompt, number):
    return prompt[str(number)]["inputs"]


def sample(values):
    return inputs_of(to_prompt(flow(node(1, "Sample", widgets_values=values)), INFO), 1)


def test_values_are_named_in_the_order_of_the_schema_and_control_values_left_out():
    assert sample([7, "randomize", 30, "plain", "tail", [1, 2]]) == {
        "seed": 7,
        "steps": 30,
        "method": "plain",
        "name": "tail",
        "curve": {"__value__": [1, 2]},
    }


def test_a_seed_saved_without_its_control_value_shifts_nothing():
    assert sample([7, 30, "plain", "tail"])["steps"] == 30


def test_the_inputs_of_the_chosen_method_have_dotted_names():
    values = sample([7, "fixed", 30, "k_lora", 0.25, "b", "tail"])
    assert values["method"] == "k_lora" and values["name"] == "tail"
    assert values["method.top"] == 0.25 and values["method.shape"] == "b"
    assert "method.mask" not in values


def test_what_was_not_saved_has_its_default():
    assert sample([]) == {
        "seed": 0,
        "steps": 20,
        "method": "plain",
        "name": "end",
        "curve": {"__value__": []},
    }
    assert inputs_of(to_prompt(flow(node(1, "Model")), INFO), 1) == {"file": "a"}


def test_values_saved_by_name_are_taken_by_name():
    assert sample({"steps": 3, "unknown": 1}) == {"steps": 3}


def test_the_upload_button_behind_a_list_of_files_is_passed_over():
    prompt = to_prompt(flow(node(1, "Load", widgets_values=["y.png", "image", False])), INFO)
    assert inputs_of(prompt, 1) == {"name": "y.png", "alpha": False}


def test_a_link_beats_the_value_of_the_widget_under_it():
    first = node(1, "Model", outputs=["INT"], widgets_values=["b"])
    steps = ("steps", "INT", 1, True)
    second = node(2, "Sample", [steps], widgets_values=[1, "fixed", 9, "plain", "t"])
    prompt = to_prompt(flow(first, second, links=[(1, 1, 0, 2, 0)]), INFO)
    assert inputs_of(prompt, 2)["steps"] == ["1", 0]
    assert inputs_of(prompt, 2)["name"] == "t"


def test_reroutes_dissolve_and_notes_are_left_out():
    nodes = [
        node(1, "Load"),
        node(2, "Reroute", [("", "*", 1)]),
        node(3, "Reroute", [("", "*", 2)]),
        node(4, "Show", [("images", "IMAGE", 3)]),
        node(5, "Note", widgets_values=["text"]),
        node(6, "MarkdownNote", widgets_values=["text"]),
    ]
    links = [(1, 1, 0, 2, 0), (2, 2, 0, 3, 0), (3, 3, 0, 4, 0)]
    prompt = to_prompt(flow(*nodes, links=links), INFO)
    assert set(prompt) == {"1", "4"} and inputs_of(prompt, 4) == {"images": ["1", 0]}


def test_a_primitive_gives_its_value():
    primitive = node(1, "PrimitiveNode", outputs=["INT"], widgets_values=[12, "fixed"])
    target = node(2, "Sample", [("steps", "INT", 1, True)])
    prompt = to_prompt(flow(primitive, target, links=[(1, 1, 0, 2, 0)]), INFO)
    assert set(prompt) == {"2"} and inputs_of(prompt, 2)["steps"] == 12


@pytest.mark.parametrize(
    ("mode", "expected"),
    [(0, ["2", 0]), (4, ["1", 0]), (2, None)],
    ids=["on", "bypassed", "muted"],
)
def test_a_bypassed_node_passes_the_input_of_its_outputs_type_and_a_muted_one_nothing(
    mode, expected
):
    nodes = [
        node(1, "Load"),
        node(2, "Pass", [("model", "MODEL", None), ("image", "IMAGE", 1)], mode=mode),
        node(3, "Show", [("images", "IMAGE", 2)]),
    ]
    prompt = to_prompt(flow(*nodes, links=[(1, 1, 0, 2, 1), (2, 2, 0, 3, 0)]), INFO)
    assert inputs_of(prompt, 3).get("images") == expected
    assert ("2" in prompt) == (mode == 0)


def subgraph(**instance):
    """Load -> [Pass -> Sample(steps, seed shown outside)] -> Show."""
    inner = [
        {"id": 5, "origin_id": -10, "origin_slot": 0, "target_id": 8, "target_slot": 0},
        {"id": 6, "origin_id": -10, "origin_slot": 1, "target_id": 9, "target_slot": 0},
        {"id": 7, "origin_id": 8, "origin_slot": 0, "target_id": -20, "target_slot": 0},
    ]
    definition = {
        "id": "uuid",
        "inputs": [
            {"name": "picture", "linkIds": [5]},
            {"name": "steps", "linkIds": [6]},
        ],
        "nodes": [
            node(8, "Pass", [("image", "IMAGE", 5)], widgets_values=[0.5]),
            node(9, "Sample", [("steps", "INT", 6, True)], widgets_values=[1, "fixed", 4]),
        ],
        "links": inner,
    }
    nodes = [
        node(1, "Load"),
        node(2, "uuid", [("picture", "IMAGE", 1)], **instance),
        node(3, "Show", [("images", "IMAGE", 2)]),
    ]
    links = [(1, 1, 0, 2, 0), (2, 2, 0, 3, 0)]
    return flow(*nodes, links=links, definitions={"subgraphs": [definition]})


def test_a_subgraph_is_flattened_with_its_links_on_both_sides():
    prompt = to_prompt(subgraph(), INFO)
    assert set(prompt) == {"1", "2:8", "2:9", "3"}
    assert inputs_of(prompt, "2:8")["image"] == ["1", 0]
    assert inputs_of(prompt, 3)["images"] == ["2:8", 0]


def test_a_widget_shown_outside_a_subgraph_rules_the_one_inside():
    assert inputs_of(to_prompt(subgraph(widgets_values=[33]), INFO), "2:9")["steps"] == 33
    assert inputs_of(to_prompt(subgraph(widgets_values=[]), INFO), "2:9")["steps"] == 4


def test_a_muted_subgraph_runs_nothing_and_a_bypassed_one_passes_through():
    assert set(to_prompt(subgraph(mode=2), INFO)) == {"1", "3"}
    prompt = to_prompt(subgraph(mode=4), INFO)
    assert set(prompt) == {"1", "3"} and inputs_of(prompt, 3)["images"] == ["1", 0]


def test_a_link_whose_origin_is_gone_is_no_link():
    nodes = [
        node(3, "Show", [("images", "IMAGE", 2)]),
        node(4, "Sample", [("steps", "INT", 3, True)], widgets_values=[1, "fixed", 9]),
    ]
    prompt = to_prompt(flow(*nodes, links=[(2, 77, 0, 3, 0), (3, 78, 0, 4, 0)]), INFO)
    assert inputs_of(prompt, 3) == {} and inputs_of(prompt, 4)["steps"] == 9


def setter(number, name, link):
    return node(number, "SetNode", [("IMAGE", "IMAGE", link)], ["*"], widgets_values=[name])


def getter(number, name):
    return node(number, "GetNode", widgets_values=[name])


def test_a_get_node_gives_what_its_set_node_gets():
    nodes = [
        node(1, "Load"),
        setter(2, "picture", 1),
        getter(3, "picture"),
        node(4, "Show", [("images", "IMAGE", 2)]),
        node(5, "Show", [("images", "IMAGE", 3)]),
        getter(6, "unused and unset"),
    ]
    links = [(1, 1, 0, 2, 0), (2, 3, 0, 4, 0), (3, 2, 0, 5, 0)]
    prompt = to_prompt(flow(*nodes, links=links), INFO)
    assert set(prompt) == {"1", "4", "5"}
    assert inputs_of(prompt, 4) == inputs_of(prompt, 5) == {"images": ["1", 0]}


def test_a_get_node_in_a_subgraph_finds_the_nearest_set_node_around_it():
    workflow = subgraph()
    (definition,) = workflow["definitions"]["subgraphs"]
    definition["nodes"] = [getter(7, "picture"), node(8, "Pass", [("image", "IMAGE", 9)])]
    inner = {"id": 9, "origin_id": 7, "origin_slot": 0, "target_id": 8, "target_slot": 0}
    definition["links"] = [inner, definition["links"][2]]
    definition["inputs"] = []
    workflow["nodes"].append(setter(4, "picture", 5))
    workflow["links"].append([5, 1, 1, 4, 0, "*"])
    assert inputs_of(to_prompt(workflow, INFO), "2:8")["image"] == ["1", 1]
    definition["nodes"].append(setter(10, "picture", None))
    assert "image" not in inputs_of(to_prompt(workflow, INFO), "2:8")


def test_a_get_node_without_its_set_node_is_named():
    nodes = [getter(3, "lost"), node(4, "Show", [("images", "IMAGE", 2)])]
    with pytest.raises(CraftError, match=r"GetNode 'lost' \(id 3\) gets nothing"):
        to_prompt(flow(*nodes, links=[(2, 3, 0, 4, 0)]), INFO)


def test_nodes_of_the_page_alone_are_left_out_and_those_that_make_links_named():
    switch = node(7, "Fast Groups Muter (rgthree)", outputs=["*"])
    assert set(to_prompt(flow(node(1, "Load"), switch), INFO)) == {"1"}
    info = {**INFO, "Anything Everywhere": {"input": {}}}
    with pytest.raises(CraftError, match=r"'Anything Everywhere' \(id 8\) makes links"):
        to_prompt(flow(node(8, "Anything Everywhere")), info)


def test_the_page_draws_in_texts_that_say_so_but_not_in_those_that_a_subgraph_shows():
    text = ["STRING", {"dynamicPrompts": True}]
    inputs = {"text": text, "plain": ["STRING", {"dynamicPrompts": False}], "old": ["STRING", {}]}
    info = {**INFO, "Sample": {"input": {"required": inputs}}}
    workflow = flow(node(1, "Sample"), node(2, "Sample", [("text", "STRING", None, True)]))
    assert dynamic_texts(workflow, info) == {("1", "text"), ("2", "text")}
    workflow = subgraph(widgets_values=["{a|b}"])
    (definition,) = workflow["definitions"]["subgraphs"]
    assert dynamic_texts(workflow, info) == {("2:9", "text")}
    definition["nodes"][1]["inputs"] = node(9, "", [("text", "STRING", 6, True)])["inputs"]
    assert dynamic_texts(workflow, info) == set()


@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("wrap", [False, True])
def test_a_byte_order_mark_and_the_body_of_a_request_are_fine(tmp_path, mark, wrap):
    prompt = {"1": {"class_type": "Model", "inputs": {"file": "a"}}}
    file = tmp_path / "body.json"
    body = {"prompt": prompt, "client_id": "me"} if wrap else prompt
    file.write_text(mark + json.dumps(body), encoding="utf-8")
    assert read_both(file, INFO) == (prompt, None)


def many(link, count=20_000):
    """A node with so many inputs, all with one link."""
    return node(9, "Show", [(f"i{number}", "IMAGE", link) for number in range(count)])


def reroutes(count):
    nodes = [node(number, "Reroute", [("", "*", number)]) for number in range(10, 10 + count)]
    return nodes, [(number, number - 1, 0, number, 0) for number in range(10, 11 + count)]


def through_reroutes():
    nodes, links = reroutes(150)
    return flow(*nodes, many(160), links=links)


def through_bypassed():
    wide = {**many(None), "id": 2, "type": "Pass", "mode": 4}
    return flow(wide, many(1), links=[(1, 2, 0, 9, 0)])


def through_a_wide_instance():
    links = [
        {"id": slot, "origin_id": -10, "origin_slot": slot, "target_id": 9, "target_slot": slot}
        for slot in range(20_000)
    ]
    inner = many(None)
    for slot, entry in enumerate(inner["inputs"]):
        entry["link"] = slot
    shown = [{"name": f"i{slot}", "linkIds": []} for slot in range(20_000)]
    definition = {"id": "uuid", "inputs": shown, "nodes": [inner], "links": links}
    return flow({**many(None), "type": "uuid"}, definitions={"subgraphs": [definition]})


def one_long_text_in_many_places(text="long " * 200_000):
    primitive = node(1, "PrimitiveNode", (), widgets_values=[text])
    return flow(primitive, many(1), links=[(1, 1, 0, 9, 0)])


def one_long_list_in_many_places():
    return one_long_text_in_many_places([[0.5, 1.0]] * 20_000)


def long_names_of_subgraphs(depth=20):
    definitions = [
        {"id": f"s{level}", "inputs": [], "links": [],
         "nodes": [{"id": "n" * 10_000, "type": f"s{level + 1}"}]}
        for level in range(depth)
    ]  # fmt: skip
    nodes = [{"id": number, "type": "Show"} for number in range(20_000)]
    definitions.append({"id": f"s{depth}", "inputs": [], "links": [], "nodes": nodes})
    return flow({"id": 1, "type": "s0"}, definitions={"subgraphs": definitions})


def a_wide_group_in_many_places():
    group = {"nodes": [{"type": "Show", "inputs": many(None)["inputs"]}], "links": []}
    nodes = [{"id": number, "type": "workflow>wide"} for number in range(20_000)]
    return flow(*nodes, extra={"groupNodes": {"wide": group}})


@pytest.mark.parametrize(
    "made",
    [through_reroutes, through_bypassed, through_a_wide_instance, one_long_text_in_many_places,
     one_long_list_in_many_places, long_names_of_subgraphs, a_wide_group_in_many_places],
)  # fmt: skip
def test_a_file_that_asks_for_far_more_than_it_has_is_refused_at_once(made):
    workflow = made()
    start = time.process_time()
    with pytest.raises(CraftError, match="too long to make|more than 100000 nodes"):
        to_prompt(workflow, INFO)
    assert time.process_time() - start < 2


def test_a_large_workflow_is_read():
    nodes, links = reroutes(10)
    nodes += [{**many(20, 20), "id": 1000 + number} for number in range(1000)]
    assert len(to_prompt(flow(node(9, "Load"), *nodes, links=links), INFO)) == 1001


def loop_of_set_and_get():
    return flow(
        setter(1, "a", 1), getter(2, "a"), node(3, "Show", [("images", "IMAGE", 2)]),
        links=[(1, 2, 0, 1, 0), (2, 2, 0, 3, 0)],
    )  # fmt: skip


def subgraph_in_itself():
    definition = {"id": "s", "inputs": [], "links": [], "nodes": [{"id": 1, "type": "s"}]}
    return flow({"id": 1, "type": "s"}, definitions={"subgraphs": [definition]})


def group_that_holds_what_holds_it():
    definition = {"id": "s", "inputs": [], "links": [], "nodes": [{"id": 1, "type": "workflow>g"}]}
    group = {"nodes": [{"type": "s"}], "links": []}
    return flow(
        {"id": 1, "type": "s"},
        definitions={"subgraphs": [definition]},
        extra={"groupNodes": {"g": group}},
    )


@pytest.mark.parametrize(
    "made", [loop_of_set_and_get, subgraph_in_itself, group_that_holds_what_holds_it]
)
def test_what_leads_back_to_itself_is_refused_at_once(tmp_path, made):
    path = tmp_path / "loop.json"
    path.write_text(json.dumps(made()), encoding="utf-8")
    start = time.process_time()
    with pytest.raises(CraftError):
        read_both(path, INFO)
    assert time.process_time() - start < 2


@pytest.mark.parametrize("entry", [{"link": None}, {"name": [], "link": None}])
def test_a_slot_without_a_name_is_told_in_words_by_all_who_read_it(entry):
    damaged = flow({"id": 1, "type": "Show", "inputs": [entry]})
    with pytest.raises(CraftError, match="damaged"):
        dynamic_texts(damaged, INFO)


@pytest.mark.parametrize("name", [None, 3, True])
def test_a_linked_input_whose_name_is_no_text_is_told_in_words(tmp_path, name):
    content = subgraph()
    node_3 = next(one for one in content["nodes"] if one["id"] == 3)
    next(entry for entry in node_3["inputs"] if entry.get("link"))["name"] = name
    path = tmp_path / "unnamed.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(CraftError, match="damaged"):
        read_both(path, INFO)


def test_a_workflow_with_an_id_twice_shows_no_value_on_the_wrong_node():
    twice = flow(node(1, "Load", widgets_values=["x.png"]), node("1", "Note"))
    base = to_prompt(twice, INFO)
    changed = {"1": {**base["1"], "inputs": {"name": "y.png"}}}
    assert showing(twice, base, base, INFO) is not None
    assert showing(twice, base, changed, INFO) is None


def test_the_workflow_is_not_written_to():
    workflow = subgraph(widgets_values=[33])
    before = copy.deepcopy(workflow)
    to_prompt(workflow, INFO)
    assert workflow == before


def test_a_node_that_the_host_lacks_is_named():
    with pytest.raises(CraftError, match=r"needs the node 'Unheard' \(id 4\)"):
        to_prompt(flow(node(4, "Unheard")), INFO)


def test_what_is_not_a_workflow_is_one_sentence(tmp_path):
    file = tmp_path / "w.json"
    with pytest.raises(CraftError, match="There is no workflow file"):
        read_workflow(file)
    for content, words in (("{", "not a JSON file"), ('{"1": {}}', "as ComfyUI's page saves it")):
        file.write_text(content)
        with pytest.raises(CraftError, match=words):
            read_workflow(file)


def assigned(*assignments):
    inputs = Inputs(to_prompt(flow(node(1, "Sample", title="Mine"), node(2, "Model")), INFO), INFO)
    return inputs.with_values(dict(map(inputs.read, assignments)))


def test_a_value_is_set_by_id_title_or_class():
    prompt = assigned("1.steps=3", "Mine.name=true story", "Model.file=b", "1.curve=[[0, 1]]")
    assert inputs_of(prompt, 1) | {"steps": 3, "name": "true story"} == inputs_of(prompt, 1)
    assert inputs_of(prompt, 1)["curve"] == {"__value__": [[0, 1]]}
    assert inputs_of(prompt, 2) == {"file": "b"}
    json.dumps(prompt)


@pytest.mark.parametrize(
    ("assignment", "words"),
    [
        ("1.steps", "form NODE.INPUT=VALUE"),
        ("7.steps=3", "no node is called '7'"),
        ("1.stops=3", "1 .Mine. has no such input"),
        ("stops=3", "No input is called 'stops'"),
    ],
)
def test_a_value_for_nothing_is_an_error_that_names_what_there_is(assignment, words):
    with pytest.raises(CraftError, match=words):
        assigned(assignment)
