"""Presets on the host's nodes: what they set is what the nodes take, runs, and is served."""

import asyncio
import json
from types import SimpleNamespace

import nodes
import pytest
import small_world_models as small
import torch
from craft_lora_pack.comfy_adapter.page import routes
from craft_lora_pack.craft_core.presets import SHIPPED, node_values
from craft_lora_pack.nodes.acfg import ACFGGuider, ACFGKSampler
from craft_lora_pack.nodes.router import Router
from craft_lora_pack.nodes.schedule import TimestepSchedule

MENU = "COMFY_DYNAMICCOMBO_V3"
OTHERS = {
    "curve": {"schedule": {"shape": "curve", "content": [[0, 1], [1, 0.5]], "clock": "model"}},
    "patterns": {"layer_sets": "content: middle_block\nstyle: output_blocks"},
    "k_lora": {"method": {"method": "k_lora", "pattern": "s*"}, "layer_sets": "auto"},
    "role": {"guidance": {"guidance": "role", "weight": 1.5}, "cfg": 1, "schedule": "cosine"},
    "weak": {"guidance": {"guidance": "weak"}, "cfg": 2},
}
PRESETS = {**SHIPPED, **OTHERS}
PROMPT = "<c>a sks animal</c> in <s>zwx style</s>"


def takes(inputs, values):
    """Every value by the schema of its input: known, in range, an entry of its list."""
    known = {**inputs.get("required", {}), **inputs.get("optional", {})}
    for name, value in values.items():
        menu, dot, knob = name.partition(".")
        kind, settings = known[menu]
        if dot:
            (entry,) = [one for one in settings["options"] if one["key"] == values[menu]]
            own = {**entry["inputs"].get("required", {}), **entry["inputs"].get("optional", {})}
            kind, settings = own[knob]
        if kind == MENU:
            assert value in [one["key"] for one in settings["options"]]
        elif kind == "COMBO":
            assert value in settings["options"]
        elif kind in ("FLOAT", "INT"):
            assert settings["min"] <= value <= settings["max"]
        else:
            types = {"BOOLEAN": bool, "STRING": str, "CURVE": dict}
            assert isinstance(value, types[kind])


def parts(values):
    return (
        (Router, values.router),
        (TimestepSchedule, values.schedule),
        (ACFGKSampler, values.guidance),
        (ACFGGuider, values.guidance),
    )


@pytest.mark.parametrize("name", PRESETS)
def test_the_nodes_take_what_a_preset_sets(name):
    for node, values in parts(node_values(PRESETS[name])):
        takes(node.define_schema().get_v1_info(node).input, values)


def nested(values):
    """As the host hands values to a node: a menu's in a dict of its own."""
    menus = {"method", "layer_sets", "shape", "guidance"} & values.keys()
    given = {name: value for name, value in values.items() if "." not in name}
    for menu in menus:
        own = [name for name in values if name.startswith(f"{menu}.")]
        given[menu] = {menu: values[menu]} | {name.partition(".")[2]: values[name] for name in own}
    return given


@pytest.fixture(scope="module")
def world():
    return small.load()


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_runs(world, name):
    values = node_values({**SHIPPED["balanced"], **PRESETS[name]})
    with torch.inference_mode():
        schedule, _ = TimestepSchedule.execute(**nested(values.schedule)).result
        routed, positive, *_ = Router.execute(
            world.model, world.clip, PROMPT, small.CONTENT, small.STYLE, schedule=schedule,
            **nested(values.router),
        ).result  # fmt: skip
        latent = nodes.EmptyLatentImage().generate(64, 64)[0]
        guidance = {"asymmetric": True, **nested(values.guidance)}
        made = ACFGKSampler.execute(
            routed, 3, 2, guidance.pop("cfg"), "euler", "normal", positive, world.encode(""),
            latent, 1.0, **guidance,
        ).result[0]["samples"]  # fmt: skip
    assert torch.isfinite(made).all() and made.std() > 0.1


def answer(body):
    async def read():
        return body

    found = asyncio.run(routes._preset_values(SimpleNamespace(read=read)))
    assert found.status == 200
    return json.loads(found.text)


@pytest.mark.parametrize("name", PRESETS)
def test_the_page_gets_the_values_of_a_preset(name):
    values = node_values(PRESETS[name])
    given = answer(json.dumps(PRESETS[name]).encode())
    own = {part: getattr(values, part) for part in ("router", "schedule", "guidance", "sampler")}
    assert given == json.loads(json.dumps(own))
    for part, expected in own.items():
        assert list(given[part]) == list(expected)  # a menu comes before what its entry brings


BROKEN = [b"", b"\xff", b"no json", b"[" * 100_000, b"[]", b'{"cfg": 1e999}', b'{"cfg": "3"}']


@pytest.mark.parametrize("body", BROKEN, ids=lambda body: ascii(body[:20]))
def test_what_is_no_preset_is_answered_in_words(body):
    assert answer(body)["error"]


def test_the_page_gets_the_shipped_presets():
    asked_nothing = SimpleNamespace(rel_url=SimpleNamespace(query={}))
    served = json.loads(asyncio.run(routes._presets(asked_nothing)).text)
    assert served == {name: dict(preset) for name, preset in SHIPPED.items()}


def test_a_body_that_is_no_preset_is_told():
    assert "error" in answer(b"[") and "error" in answer(b"1")
    assert "bytes" in answer(b" " * (routes.MOST_OF_A_PRESET + 1))["error"]
