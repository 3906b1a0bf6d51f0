"""Lists of methods, guidances, strengths and schedules become every setting once."""

import json

import pytest
from craft_lora_pack.craft_core.errors import CraftError
from craft_lora_pack.craft_core.guidance import GUIDANCE
from craft_lora_pack.craft_core.presets import node_values
from craft_lora_pack.craft_core.routing.presets import OF_MODEL
from craft_lora_pack.craft_core.schedule import Schedule
from craft_lora_pack.craft_core.search import rule_in, settings_of

LISTS = {
    "methods": "craft\nk_lora: pattern = s*  # a note",
    "guidances": "acfg\nrole: weight = 1.5",
    "strengths": "0.5, 1",
    "schedules": "constant, cosine",
}


def settings(**lists):
    given = {**LISTS, **lists}
    return settings_of(*given.values(), ("auto", *OF_MODEL), GUIDANCE)


def test_every_combination_is_there_once_and_the_first_entries_come_first():
    found = settings()
    assert len(found) == len({one.label for one in found}) == 2 * 2 * 2 * 2 * 2
    first = found[0]
    assert (first.line.method.key, first.line.guidance) == ("craft", "acfg")
    assert (first.content_strength, first.style_strength, first.schedule) == (0.5, 0.5, "constant")
    assert first.label == "craft, guidance = acfg; content 0.5, style 0.5; constant"
    weighted = [one for one in found if one.line.guidance == "role"]
    assert {one.line.weights["weight"] for one in weighted} == {1.5}
    assert {one.line.knobs["pattern"] for one in found if one.line.knobs} == {"s*"}


def test_a_label_tells_its_guidance_rule():
    lists = {"methods": "craft\ndirect: guidance = weak, fraction = 0.25\nk_lora: pattern = s*"}
    found = settings(**lists, schedules="constant\ncosine: content_floor = 0.75, clock = model")
    assert {rule_in(one.label) for one in found} == {"acfg", "role", "weak"}
    assert all(rule_in(one.label) == one.line.guidance for one in found)
    assert rule_in("no label") == ""


def test_a_method_that_names_its_guidance_keeps_it():
    found = settings(methods="craft\ndirect: guidance = cfg", strengths="1", schedules="constant")
    guidances = [(one.line.method.key, one.line.guidance) for one in found]
    assert guidances == [("craft", "acfg"), ("craft", "role"), ("direct", "cfg")]


@pytest.mark.parametrize(
    ("methods", "guidances", "count"),
    [
        ("craft\ncraft: guidance = acfg", "acfg\ncfg", 2),
        ("craft: guidance = acfg\ncraft", "cfg\nacfg", 2),
        ("direct\ndirect: guidance = role, weight = 1.50", "role: weight = 1.5\ncfg", 2),
    ],
)
def test_a_setting_that_is_written_twice_is_there_once(methods, guidances, count):
    found = settings(methods=methods, guidances=guidances, strengths="1", schedules="constant")
    assert len(found) == count == len({one.label for one in found})
    named = methods.splitlines()[0].partition("guidance = ")[2]
    assert found[0].line.guidance == (named or guidances.splitlines()[0].partition(":")[0])


def test_one_setting_that_is_written_twice_is_no_choice():
    with pytest.raises(CraftError, match="There is one setting"):
        settings(methods="craft\ncraft: guidance = cfg", guidances="cfg", strengths="1",
                 schedules="constant")  # fmt: skip


def test_a_setting_is_data_for_programs():
    (found,) = (one for one in settings() if one.label.startswith("k_lora, pattern = s*, guidance "
                "= role, weight = 1.5; content 1, style 0.5; cosine"))  # fmt: skip
    data = json.loads(json.dumps(found.as_data()))
    assert data["method"] == {"method": "k_lora", "pattern": "s*"}
    assert data["guidance"] == {"guidance": "role", "weight": 1.5}
    assert (data["content_strength"], data["style_strength"]) == (1.0, 0.5)
    assert data["schedule"] == "cosine"


def test_a_schedule_may_have_settings_on_a_line_of_its_own():
    written = "constant, linear\ncosine: style_floor = 0.5 , content_floor = 0.25  # a note"
    found = settings(methods="direct", guidances="cfg", strengths="1", schedules=written)
    floors = "cosine: style_floor = 0.5, content_floor = 0.25"
    assert [one.schedule for one in found] == ["constant", "linear", floors]
    assert [one.course for one in found] == [
        None, Schedule("linear"), Schedule("cosine", {}, 0.25, 0.5),
    ]  # fmt: skip
    assert found[-1].label.endswith(f"; {floors}")
    data = json.loads(json.dumps(found[-1].as_data()))
    assert node_values({"schedule": data["schedule"]}).schedule["style_floor"] == 0.5


@pytest.mark.parametrize(
    ("lists", "given"),
    [
        ({"methods": "klora"}, "klora"),
        ({"guidances": ""}, "No guidance is listed"),
        ({"guidances": "rolle"}, "rolle"),
        ({"guidances": "role: weights = 2"}, "weights"),
        ({"strengths": ""}, "strengths is ''"),
        ({"strengths": "1, a"}, "strengths is"),
        ({"strengths": "1, 1"}, "strengths is"),
        ({"strengths": "1, 1.0"}, "strengths is"),
        ({"strengths": "0, -0"}, "strengths is"),
        ({"strengths": "0.1234567, 0.12345671"}, "strengths is"),  # one label
        ({"strengths": "11"}, "strengths is"),
        ({"strengths": "nan"}, "strengths is"),
        ({"strengths": ", ".join(map(str, range(17)))}, "strengths is"),
        ({"schedules": "cosin"}, "cosin"),
        ({"schedules": "cosine, cosine"}, "schedules is"),
        ({"schedules": ""}, "schedules is"),
        ({"schedules": "cosine: style_floor = 0.5\ncosine:style_floor=0.5"}, "schedules is"),
        ({"schedules": "cosine: style_floor = 0.5\ncosine: style_floor = 0.50"}, "schedules is"),
        ({"schedules": "cosine\ncosine: style_floor = 0"}, "schedules is"),
        ({"schedules": "constant, cosine: style_floor = 0.5"}, "line of its own"),
        ({"schedules": "cosine: floor = 0.5"}, "floor"),
        ({"schedules": "cosine: style_floor = 2"}, "style_floor"),
        (
            {
                "methods": "\n".join(f"k_lora: alpha = {1 + k / 100}" for k in range(50)),
                "strengths": ", ".join(map(str, range(10))),
            },
            "There are 20000 settings",
        ),
        (
            {"methods": "craft", "guidances": "cfg", "strengths": "1", "schedules": "constant"},
            "There is one setting",
        ),
    ],
)
def test_a_list_that_cannot_be_read_is_said_in_three_parts(lists, given):
    with pytest.raises(CraftError) as caught:
        settings(**lists)
    assert given in str(caught.value)
    assert caught.value.given and caught.value.possible and caught.value.action
