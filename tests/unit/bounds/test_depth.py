"""What is nested deeply is read or refused in words, at whatever depth; no call of Python's own
limit decides."""

from __future__ import annotations

import json
import sys

import pytest
from craft_lora_pack.client.answers import NoJson, parse_json
from craft_lora_pack.client.from_page.graph import MOST_NESTED_GRAPHS, MOST_PASSED
from craft_lora_pack.client.workflow import dynamic_texts, read_both
from craft_lora_pack.craft_core.errors import CraftError
from craft_lora_pack.craft_core.json_text import MOST_LEVELS, TooDeep, shallow_json
from craft_lora_pack.craft_core.routing.lora_rows import read_rows
from craft_lora_pack.craft_core.routing.trigger_words import trigger_words
from craft_lora_pack.craft_core.schedule.curve import read_points

DEPTHS = [
    *range(1, 130),
    *range(sys.getrecursionlimit() - 150, sys.getrecursionlimit() + 20),
    10**5,
]
INFO = {
    "Plain": {"display_name": "Plain", "input": {"required": {"image": ["IMAGE", {}]}},
              "output": ["IMAGE"]},
}  # fmt: skip


def test_the_value_of_a_text_is_given_up_to_a_number_of_levels():
    for depth in DEPTHS:
        for text in ("[" * depth + "]" * depth, '{"a":' * depth + "1" + "}" * depth):
            if depth <= MOST_LEVELS:
                assert json.dumps(shallow_json(text), separators=(",", ":")) == text
            else:
                with pytest.raises(TooDeep, match="nested too deeply"):
                    shallow_json(text)


@pytest.mark.parametrize("form", ["{}", '[{{"lora": {}, "role": "content"}}]', "[{}]",
                                  '{{"lora": {}}}'])  # fmt: skip
def test_a_list_of_loras_of_any_depth_is_refused_in_words(form):
    for depth in DEPTHS:
        with pytest.raises(CraftError):
            read_rows(form.format("[" * depth + "1" + "]" * depth))


def test_an_answer_of_any_depth_can_be_written_again_or_is_refused():
    for depth in DEPTHS:
        try:
            json.dumps(parse_json("[" * depth + "]" * depth))
        except NoJson as error:
            assert "nested" in str(error)


def test_metadata_of_any_depth_has_no_words():
    for depth in DEPTHS:
        deep = '{"a":' * depth + "1" + "}" * depth
        assert len(trigger_words({"ss_tag_frequency": deep})) <= 1


def test_points_of_any_depth_are_refused_in_words():
    for depth in DEPTHS[:-1]:
        points: list = []
        for _ in range(depth):
            points = [points]
        with pytest.raises(CraftError):
            read_points(points)


def reroutes(count: int) -> dict:
    nodes = [{"id": 0, "type": "Plain", "inputs": [{"name": "image", "type": "*", "link": 0}]}]
    nodes += [{"id": n, "type": "Reroute", "inputs": [{"name": "", "type": "*", "link": n}]}
              for n in range(1, count + 1)]  # fmt: skip
    return {"nodes": nodes, "links": [[n, n + 1, 0, n, 0, "IMAGE"] for n in range(count)]}


def nested(count: int) -> dict:
    kinds = [*(f"s{n}" for n in range(count)), "Plain"]
    definitions = [
        {"id": kind, "nodes": [{"id": 1, "type": inside, "inputs": []}], "links": [],
         "inputs": [], "outputs": []}
        for kind, inside in zip(kinds, kinds[1:], strict=False)
    ]  # fmt: skip
    nodes = [{"id": 1, "type": kinds[0], "inputs": []}]
    return {"nodes": nodes, "links": [], "definitions": {"subgraphs": definitions}}


@pytest.mark.parametrize(("made", "most", "said"), [
    (reroutes, MOST_PASSED, "comes through more than"),
    (nested, MOST_NESTED_GRAPHS, "subgraphs inside one another"),
])  # fmt: skip
def test_workflows_of_any_depth_are_read_or_refused_in_words(tmp_path, made, most, said):
    path = tmp_path / "workflow.json"
    for count in (most - 1, most, most + 1, 250, 320, 330, 990, 5000):
        workflow = made(count)
        path.write_text(json.dumps(workflow), "utf-8")
        if count <= most:
            prompt, _ = read_both(path, INFO)
            assert [one["class_type"] for one in prompt.values()] == ["Plain"]
            dynamic_texts(workflow, INFO)
        else:
            with pytest.raises(CraftError, match=said):
                read_both(path, INFO)
