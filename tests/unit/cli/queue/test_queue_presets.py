"""`queue --preset` without a server: what is set, what is left out, and what is no preset."""

from __future__ import annotations

import json

import pytest
from craft_lora_pack.cli.queue.presets import preset_named, with_preset
from craft_lora_pack.craft_core.errors import CraftError
from craft_lora_pack.craft_core.presets import SHIPPED, node_values

MENU = "COMFY_DYNAMICCOMBO_V3"
NUMBER = ["FLOAT", {"default": 0.0}]
INFO = {
    "CRAFTRouter": {
        "input": {
            "required": {
                "content_strength": NUMBER,
                "style_strength": NUMBER,
                "layer_sets": [MENU, {"options": [{"key": "all", "inputs": {}}]}],
                "method": [MENU, {"options": [{"key": "direct", "inputs": {}}]}],
            }
        }
    },
    "CRAFTACFGGuider": {
        "input": {
            "required": {"cfg": NUMBER, "asymmetric": ["BOOLEAN", {}]},
            "optional": {"guidance": [MENU, {"options": [{"key": "acfg/cfg", "inputs": {}}]}]},
        }
    },
    "KSampler": {"input": {"required": {"cfg": NUMBER}}},
}


def prompt(**others):
    router = {"class_type": "CRAFTRouter", "inputs": {"content_strength": 0.1, "method": "direct"}}
    return {"1": router, **others}


def node(kind, **inputs):
    return {"class_type": kind, "inputs": inputs}


def test_every_router_and_every_sampler_of_ours_is_set_and_no_other():
    given = prompt(
        **{
            "2": prompt()["1"],
            "3": node("CRAFTACFGGuider", cfg=8.0),
            "4": node("KSampler", cfg=8.0),
        }
    )
    made, left = with_preset(given, INFO, node_values(SHIPPED["strong_style"]))
    assert left == []
    for router in ("1", "2"):
        assert made[router]["inputs"]["content_strength"] == 0.75
    assert made["3"]["inputs"] == {"cfg": 2.0, "asymmetric": True, "guidance": "acfg/cfg"}
    assert made["4"] == given["4"] and given["1"]["inputs"]["content_strength"] == 0.1


def test_what_is_left_out_is_said():
    given = prompt(**{"9": node("Primitive")})
    given["1"]["inputs"]["content_strength"] = ["9", 0]
    preset = {**SHIPPED["balanced"], "schedule": "cosine"}
    made, left = with_preset(given, INFO, node_values(preset))
    assert made["1"]["inputs"]["content_strength"] == ["9", 0]
    assert [line.split(":")[0] for line in left] == [
        "schedule cosine", "guidance", "1.content_strength"
    ]  # fmt: skip


@pytest.mark.parametrize("preset", SHIPPED)
@pytest.mark.parametrize("kind", ["CRAFTRouter", "CRAFTACFGGuider"])
def test_an_input_that_the_servers_node_lacks_is_left_out(kind, preset):
    """As where the server has an older pack."""
    given = {"1": node("CRAFTRouter"), "3": node("CRAFTACFGGuider")}
    target = "1" if kind == "CRAFTRouter" else "3"
    known = {name: one for group in INFO[kind]["input"].values() for name, one in group.items()}
    whole, _ = with_preset(given, INFO, node_values(SHIPPED[preset]))
    for lacks in known:
        less = {"input": {"required": {name: known[name] for name in known if name != lacks}}}
        made, left = with_preset(given, INFO | {kind: less}, node_values(SHIPPED[preset]))
        told = f"{target}.{lacks}: the server's node has no such input" in left
        assert lacks not in made[target]["inputs"] and told == (lacks in whole[target]["inputs"])


@pytest.mark.parametrize(
    ("schedule", "is_said"),
    [
        ("constant", False),
        ({"shape": "constant", "content": 1.0, "style": 1}, False),
        ({"shape": "constant", "content": 0.5}, True),
        ({"shape": "constant", "style": 0.5}, True),
    ],
)
def test_a_constant_schedule_of_other_strengths_is_not_dropped_silently(schedule, is_said):
    """Without a Timestep Schedule a Router's strengths are 1 throughout."""
    _, left = with_preset(prompt(), INFO, node_values({"schedule": schedule}))
    said = ["schedule constant: no Timestep Schedule is linked"]
    assert left == (said if is_said else [])
    other = prompt(**{"9": node("Another")})
    other["1"]["inputs"]["schedule"] = ["9", 0]
    assert with_preset(other, INFO, node_values({"schedule": schedule}))[1] == said


def test_a_workflow_without_a_router_is_refused():
    with pytest.raises(CraftError, match="no Content/Style LoRA Router"):
        with_preset({"4": node("KSampler", cfg=8.0)}, INFO, node_values({"cfg": 1}))


def test_a_preset_is_a_name_or_a_file(tmp_path):
    file = tmp_path / "own.json"
    file.write_text(json.dumps(SHIPPED["distilled"]), "utf-8")
    assert preset_named(str(file)) == preset_named("distilled")
    file.write_text("{", "utf-8")
    for wrong in (str(file), str(tmp_path), str(tmp_path / "gone.json"), "balance", "a\0b"):
        with pytest.raises(CraftError, match="no preset that can be read"):
            preset_named(wrong)
    file.write_text("[]", "utf-8")
    with pytest.raises(CraftError, match="This is no preset"):
        preset_named(str(file))
