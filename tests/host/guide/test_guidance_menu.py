"""The nodes' guidance menu: the rule that it sets, and what is said of its cost."""

from __future__ import annotations

import comfy.samplers
import nodes as host_nodes
import oracle
import pytest
import tiny
import torch
from craft_lora_pack.comfy_adapter.engine.engine import set_guidance
from craft_lora_pack.comfy_adapter.engine.modules import model_layers
from craft_lora_pack.comfy_adapter.guide.acfg import (
    ChosenRule,
    acfg_guider,
    acfg_sample,
    objections,
)
from craft_lora_pack.craft_core.errors import CraftError
from craft_lora_pack.craft_core.guidance import GUIDANCE
from craft_lora_pack.craft_core.schedule.schedule import Schedule
from craft_lora_pack.nodes.acfg import ACFGGuider, ACFGKSampler
from two_loras import NEGATIVE, POSITIVE, loras, routed

ROLE = {"guidance": "role", "weight": 2.0, "content_weight": 1.0, "style_weight": 1.5}
ROLE |= {"norm": "off"}
SETTINGS = {name: value for name, value in ROLE.items() if name != "guidance"}
EARLY = Schedule("window", {"content_end": 0.4, "style_start": 0.0, "style_end": 0.4})


@pytest.fixture(scope="module")
def ours():
    model = tiny.sdxl()
    return routed(model, loras(model_layers(model)))


def guider(model, cfg=1.0, asymmetric=True, **menu):
    return ACFGGuider.execute(model, POSITIVE, NEGATIVE, cfg, asymmetric, **menu).result[0]


def ksampled(model, cfg=1.0, **menu):
    with torch.inference_mode():
        return ACFGKSampler.execute(
            model, 3, 4, cfg, "euler", "normal", POSITIVE, NEGATIVE, tiny.latent(), 1.0, True,
            **menu,
        ).result[0]["samples"]  # fmt: skip


def by_hand(model, cfg=1.0):
    with torch.inference_mode():
        arguments = (model, 3, 4, cfg, "euler", "normal", POSITIVE, NEGATIVE, tiny.latent())
        return host_nodes.common_ksampler(*arguments)[0]["samples"]


@pytest.mark.parametrize("node", [ACFGGuider, ACFGKSampler])
def test_the_menu_and_its_schedule_come_last_and_need_not_be_given(node):
    *_, menu, course = node.GET_SCHEMA().inputs
    assert (menu.id, course.id) == ("guidance", "weight_schedule")
    assert menu.optional and course.optional
    keys = [option.key for option in menu.options]
    assert keys[0] == "acfg/cfg" and set(keys[1:]) | {"acfg", "cfg"} == set(GUIDANCE.keys())


@pytest.mark.parametrize("asymmetric", [True, False])
def test_its_first_entry_is_what_the_nodes_did_without_it(ours, asymmetric):
    made = [
        oracle.sample(guider(ours, 4.0, asymmetric, **menu), tiny.latent())
        for menu in ({}, {"guidance": {"guidance": "acfg/cfg"}}, {"guidance": None})
    ]
    assert torch.equal(made[0], made[1]) and torch.equal(made[0], made[2])
    plain = acfg_guider(ours, POSITIVE, NEGATIVE, 4.0, asymmetric)
    assert torch.equal(made[0], oracle.sample(plain, tiny.latent()))


def test_both_nodes_sample_under_the_rule_with_the_settings_of_the_menu(ours):
    expected = set_guidance(ours, "role", SETTINGS, EARLY)
    menu = {"guidance": ROLE, "weight_schedule": EARLY}
    assert torch.equal(ksampled(ours, **menu), by_hand(expected))
    a = oracle.sample(guider(ours, **menu), tiny.latent())
    assert torch.equal(a, oracle.sample(oracle.guider(expected, POSITIVE, NEGATIVE, 1.0),
                                        tiny.latent()))  # fmt: skip
    assert not torch.equal(ksampled(ours, **menu), ksampled(ours, guidance=ROLE))


def test_cfg_1_is_no_objection_to_a_rule_with_weights(ours):
    assert len(objections(ours, 1.0, True)) == 1
    assert objections(ours, 1.0, True, ChosenRule("role")) == []
    assert "no routed LoRAs" in objections(tiny.sdxl(), 1.0, True, ChosenRule("role"))[0]


def test_the_cost_of_a_run_is_said_where_a_rule_has_more_evaluated(ours):
    arguments = (1.0, "euler", "normal", POSITIVE, NEGATIVE, tiny.latent(), 1.0)
    with torch.inference_mode():
        plain = acfg_sample(ours, True, 3, 4, *arguments)
        neutral = acfg_sample(ours, True, 3, 4, *arguments, rule=ChosenRule("role"))
        early = acfg_sample(
            ours, True, 3, 4, *arguments, rule=ChosenRule("role", {"weight": 2.0}, EARLY)
        )
    assert plain.cost == neutral.cost == ""
    assert torch.equal(plain.activity, neutral.activity)
    assert early.cost == "4 steps took 6 evaluations of the model: 4 cond, 2 backbone."
    assert not torch.equal(plain.activity, early.activity)  # the heading has the number


def test_a_setting_out_of_its_range_is_refused(ours):
    with pytest.raises(CraftError, match="(?s)role: weight = -1.*ranges from 0.0 to 20.0"):
        guider(ours, guidance={**ROLE, "weight": -1.0})
    assert isinstance(guider(ours, guidance=ROLE), comfy.samplers.CFGGuider)
