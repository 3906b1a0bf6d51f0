"""A preset is read or refused whole, and what it leaves out has its default."""

import json

import pytest
from craft_lora_pack.craft_core.errors import CraftError
from craft_lora_pack.craft_core.fusion import FUSION
from craft_lora_pack.craft_core.guidance import GUIDANCE
from craft_lora_pack.craft_core.guidance.reach import overdriven, reaches
from craft_lora_pack.craft_core.presets import SHIPPED, node_values
from craft_lora_pack.craft_core.routing.presets import PRESETS
from craft_lora_pack.craft_core.schedule import SHAPES
from craft_lora_pack.craft_core.search import settings_of

from launcher.paths import ROOT

CURVE = {"points": [[0.0, 1.0], [1.0, 0.0]], "interpolation": "monotone_cubic"}


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_preset_sets_everything_and_says_what_it_follows_from(name):
    preset = SHIPPED[name]
    values = node_values(preset)
    assert {"method", "layer_sets", "content_strength", "style_strength"} <= values.router.keys()
    assert {"shape", "content_floor", "style_floor", "clock"} <= values.schedule.keys()
    assert {"asymmetric", "guidance", "cfg"} <= values.guidance.keys()
    assert "docs/benchmarks.md" in preset["follows"]


@pytest.mark.parametrize("name", SHIPPED)
def test_no_shipped_preset_burns_pictures(name):
    preset = SHIPPED[name]
    by = reaches(preset["guidance"]["guidance"], preset["cfg"], {})
    strengths = {role: preset[f"{role}_strength"] for role in ("content", "style")}
    assert overdriven(strengths, by) == []


@pytest.mark.parametrize("name", SHIPPED)
def test_the_page_and_the_docs_know_every_shipped_preset(name):
    assert f"\n  {name}: {{" in (ROOT / "web/js/lib/menus/presets.js").read_text("utf-8")
    assert f"| `{name}` |" in (ROOT / "docs/presets.md").read_text("utf-8")


def test_every_setting_of_a_search_is_a_preset():
    methods = "\n".join(method.key for method in FUSION)
    rules = "\n".join(rule.key for rule in GUIDANCE)
    shapes = ", ".join(shape.key for shape in SHAPES)
    found = settings_of(methods, rules, "1", shapes, ("auto",), GUIDANCE)
    assert len(found) == len(FUSION.keys()) * len(GUIDANCE.keys()) * len(SHAPES.keys())
    for setting in found:
        written = json.loads(json.dumps(setting.as_data() | {"layer_sets": "auto"}))
        values = node_values(written)
        assert values.router["method"] == setting.line.method.key
        assert values.router["content_strength"] == setting.content_strength
        assert values.schedule["shape"] == setting.schedule


@pytest.mark.parametrize("registry", [FUSION, GUIDANCE, SHAPES], ids=lambda one: one.noun)
def test_what_is_not_written_has_its_default(registry):
    part = {FUSION: "method", GUIDANCE: "guidance", SHAPES: "schedule"}[registry]
    menu = "shape" if part == "schedule" else part
    for method in registry:
        values = node_values({part: {menu: method.key}})
        (own,) = [one for one in (values.router, values.schedule, values.guidance) if one]
        brought = {name: own[name] for name in own if name.startswith(f"{menu}.")}
        defaults = {f"{menu}.{p.name}": p.default for p in method.parameters}
        if method.key != "curve":
            assert brought == defaults
        else:
            assert brought["shape.content"] == CURVE


@pytest.mark.parametrize("key", PRESETS)
def test_layer_sets_are_a_key_or_patterns(key):
    assert node_values({"layer_sets": key}).router == {"layer_sets": key}
    text = PRESETS[key].text
    if text:
        own = {"layer_sets": "custom", "layer_sets.patterns": text}
        assert node_values({"layer_sets": text}).router == own


def test_guidance_by_the_switch_and_by_a_rule():
    for key, on in (("acfg", True), ("cfg", False)):
        values = node_values({"guidance": {"guidance": key}}).guidance
        assert values == {"asymmetric": on, "guidance": "acfg/cfg"}
    role = node_values({"guidance": {"guidance": "role", "weight": 2}, "cfg": 1}).guidance
    assert (role["guidance"], role["guidance.weight"], role["cfg"]) == ("role", 2.0, 1.0)


WRONG = [
    None, [], "balanced", {}, {"follows": "nothing"}, {"strength": 1.0}, {"cfg": True},
    {"cfg": "3"}, {"cfg": float("nan")}, {"cfg": -1}, {"cfg": 101}, {"content_strength": 10.5},
    {"style_strength": float("inf")}, {"style_strength": 10**400}, {"method": "craft"},
    {"method": {}}, {"method": {"method": ["craft"]}}, {"method": {"method": "klora"}},
    {"method": {"method": "craft", "gamma": 1}}, {"method": {"method": "k_lora", "pattern": 1}},
    {"method": {"method": "k_lora", "pattern": "t"}},
    {"method": {"method": "switch", "every": 1.5}},
    {"layer_sets": 3}, {"layer_sets": ""}, {"layer_sets": "custom"}, {"layer_sets": "middle"},
    {"schedule": 1}, {"schedule": "wavy"}, {"schedule": {}}, {"schedule": {"shape": {}}},
    {"schedule": {"shape": "cosine", "content_floor": 2}},
    {"schedule": {"shape": "cosine", "x": 1}}, {"schedule": {"shape": "cosine", "clock": "wall"}},
    {"schedule": {"shape": "cosine", "clock": 1}},
    {"schedule": {"shape": "window", "content_start": 0.9, "content_end": 0.1}},
    {"schedule": {"shape": "curve", "content": {"points": []}}},
    {"schedule": {"shape": "curve", "content": []}}, {"guidance": "acfg"},
    {"guidance": {"guidance": "acfg/cfg"}}, {"guidance": {"guidance": "role", "weight": 99}},
    {"guidance": {"guidance": "acfg", "weight": 1}},
]  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG, ids=lambda one: ascii(one)[:60])
def test_what_is_no_preset_is_refused_in_words(wrong):
    with pytest.raises(CraftError):
        node_values(wrong)
