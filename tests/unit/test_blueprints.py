"""The shipped subgraph blueprints are complete and consistent in all that the page reads."""

import json
from typing import Any

import pytest

from craft_core.starting import FLOOR, GUIDED_WEIGHT, MOST_GUIDED_WEIGHT
from launcher.paths import ROOT
from launcher.publish import registry

FILES = sorted((ROOT / "subgraphs").glob("*.json"))
INPUTS, OUTPUTS = -10, -20  # the page's ids of a subgraph's own inputs and outputs
MAY_BE_NULL = {"link", "links"}
WITH_STARTS = ("CRAFTACFGKSampler", "CRAFTRouter", "CRAFTTimestepSchedule")


@pytest.fixture(params=FILES, ids=lambda file: file.stem)
def file(request):
    return request.param


@pytest.fixture
def blueprint(file) -> dict[str, Any]:
    return json.loads(file.read_text("utf-8"))


@pytest.fixture
def host(blueprint) -> dict[str, Any]:
    (node,) = blueprint["nodes"]
    return node


@pytest.fixture
def subgraph(blueprint) -> dict[str, Any]:
    (definition,) = blueprint["definitions"]["subgraphs"]
    return definition


def nulls(value: Any, key: str = "") -> list[str]:
    if isinstance(value, dict):
        return [found for name, part in value.items() for found in nulls(part, name)]
    if isinstance(value, list):
        return [found for part in value for found in nulls(part, key)]
    return [key] if value is None and key not in MAY_BE_NULL else []


def test_there_are_blueprints_and_the_package_has_them():
    names = {file.relative_to(ROOT).as_posix() for file in FILES}
    assert {"subgraphs/Content + Style LoRA.json", "subgraphs/Compare Fusion Methods.json"} <= names
    assert names <= set(registry.read_pack(ROOT).files)


def test_it_is_one_node_of_its_one_subgraph_named_as_the_file(file, blueprint, host, subgraph):
    assert host["type"] == subgraph["id"]
    assert file.stem == host["title"] == subgraph["name"]
    assert blueprint["links"] == [] and nulls(blueprint) == []


def test_it_says_what_it_is(blueprint, subgraph):
    assert subgraph["category"] == "CRAFT-LoRA"
    assert len(subgraph["description"]) > 80
    assert blueprint["extra"]["BlueprintDescription"] == subgraph["description"]
    assert blueprint["extra"]["BlueprintSearchAliases"]


def test_the_node_has_the_subgraphs_inputs_and_outputs_in_order(host, subgraph):
    for side in ("inputs", "outputs"):
        outer = [(slot["name"], slot["type"]) for slot in host[side]]
        assert outer == [(slot["name"], slot["type"]) for slot in subgraph[side]]
        assert len(dict(outer)) == len(outer)


def test_links_and_slots_name_one_another(subgraph):
    nodes = {node["id"]: node for node in subgraph["nodes"]}
    ids = [link["id"] for link in subgraph["links"]]
    assert len(set(ids)) == len(ids) == subgraph["state"]["lastLinkId"]
    assert max(nodes) == subgraph["state"]["lastNodeId"]
    for link in subgraph["links"]:
        if link["origin_id"] == INPUTS:
            assert link["id"] in subgraph["inputs"][link["origin_slot"]]["linkIds"]
        else:
            output = nodes[link["origin_id"]]["outputs"][link["origin_slot"]]
            assert link["id"] in output["links"] and output["type"] == link["type"]
        if link["target_id"] == OUTPUTS:
            assert link["id"] in subgraph["outputs"][link["target_slot"]]["linkIds"]
        else:
            target = nodes[link["target_id"]]["inputs"][link["target_slot"]]
            assert target["link"] == link["id"] and target["type"] == link["type"]


def test_every_link_that_a_slot_names_exists(subgraph):
    ids = {link["id"] for link in subgraph["links"]}
    named = [slot["linkIds"] for side in ("inputs", "outputs") for slot in subgraph[side]]
    for node in subgraph["nodes"]:
        named += [output.get("links") or [] for output in node.get("outputs", [])]
        named += [[slot["link"]] for slot in node["inputs"] if slot["link"] is not None]
    assert {link for links in named for link in links} == ids


def test_the_node_has_a_value_for_each_widget_it_shows_and_no_ones_loras(host):
    shown = [slot["name"] for slot in host["inputs"] if "widget" in slot]
    values = dict(zip(shown, host["widgets_values"], strict=True))
    assert values["content_lora"] == values["style_lora"] == "none"
    assert "<c>" in values["prompt"] and "<s>" in values["prompt"]
    assert shown[:3] == ["prompt", "content_lora", "style_lora"]


def test_it_starts_with_strengths_that_acfg_does_not_over_drive(host):
    shown = [slot["name"] for slot in host["inputs"] if "widget" in slot]
    values = dict(zip(shown, host["widgets_values"], strict=True))
    for role in ("content", "style"):
        assert values[f"{role}_strength"] * values["cfg"] == pytest.approx(GUIDED_WEIGHT)


def test_what_the_node_shows_is_what_the_nodes_inside_start_with(host, subgraph):
    shown = [slot["name"] for slot in host["inputs"] if "widget" in slot]
    nodes = {node["id"]: node for node in subgraph["nodes"]}
    ends = {link["id"]: link for link in subgraph["links"]}
    inner = {slot["name"]: ends[slot["linkIds"][0]] for slot in subgraph["inputs"]}
    for name, value in zip(shown, host["widgets_values"], strict=True):
        node = nodes[inner[name]["target_id"]]
        own = node["inputs"][inner[name]["target_slot"]]["name"]
        assert widget_values(node)[own] == value


def test_its_schedule_never_turns_a_lora_off(subgraph):
    for node in subgraph["nodes"]:
        if node["type"] == "CRAFTTimestepSchedule":
            values = widget_values(node)
            assert values["content_floor"] == values["style_floor"] == FLOOR


@pytest.mark.parametrize("file", sorted((ROOT / "workflows").glob("*.json")), ids=lambda f: f.stem)
def test_no_template_opens_with_strengths_that_the_router_warns_of(file):
    nodes = json.loads(file.read_text("utf-8"))["nodes"]
    ours = [node for node in nodes if node["type"].startswith(("CRAFTACFG", "CRAFTRouter"))]
    routers, samplers = [], []
    for values in (widget_values(node, strict=False) for node in ours):
        (routers if "content_strength" in values else samplers).append(values)
    by_acfg = [one["cfg"] for one in samplers if one["asymmetric"] and "acfg" in one["guidance"]]
    strengths = [one[f"{role}_strength"] for one in routers for role in ("content", "style")]
    assert max(strengths, default=0) * max(by_acfg, default=0) <= MOST_GUIDED_WEIGHT


@pytest.mark.parametrize("name", ["fusion_sdxl", "demo_small_world"])
def test_a_template_starts_with_strengths_of_the_same_reach(name):
    """ACFG multiplies a strength by cfg."""
    nodes = json.loads((ROOT / "workflows" / f"{name}.json").read_text("utf-8"))["nodes"]
    values = {node["type"]: widget_values(node) for node in nodes if node["type"] in WITH_STARTS}
    sampler, router, schedule = (values[kind] for kind in WITH_STARTS)
    assert sampler["asymmetric"] is True
    for role in ("content", "style"):
        assert router[f"{role}_strength"] * sampler["cfg"] == pytest.approx(GUIDED_WEIGHT)
    assert schedule["content_floor"] == schedule["style_floor"] == FLOOR


def widget_values(node: dict[str, Any], strict: bool = True) -> dict[str, Any]:
    """A node's values by name; the page adds one after each seed."""
    names = []
    for slot in node["inputs"]:
        if "widget" in slot:
            seed = slot["name"] in ("seed", "first_seed")
            names += [slot["name"], "control_after_generate"] if seed else [slot["name"]]
    return dict(zip(names, node["widgets_values"], strict=strict))
