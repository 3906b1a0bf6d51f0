"""The host combines both predictions of a step itself, as the rule of that run says."""

from __future__ import annotations

import oracle
import pytest
import tiny
import torch
from craft_lora_pack.comfy_adapter.engine.engine import set_guidance
from craft_lora_pack.comfy_adapter.engine.modules import model_layers
from craft_lora_pack.craft_core.errors import CraftError
from craft_lora_pack.craft_core.guidance import GUIDANCE, Step
from craft_lora_pack.craft_core.time import Moment
from two_loras import NEGATIVE, POSITIVE, loras, routed

ROUNDING = 4 * torch.finfo(torch.float32).eps


@pytest.mark.parametrize("key", ["cfg", "acfg"])
def test_what_the_host_makes_of_both_predictions_is_the_rules_combination(key):
    model = tiny.sdxl()
    guided = set_guidance(routed(model, loras(model_layers(model))), key)
    rule, found = GUIDANCE[key], []

    def noted(step):
        predictions = {"cond": step["cond_denoised"], "uncond": step["uncond_denoised"]}
        moment = Moment(len(found) / 3, 4)
        made = rule.function(predictions, Step(step["cond_scale"], moment))
        found.append(oracle.distance(step["denoised"], made))
        assert not torch.equal(predictions["cond"], predictions["uncond"])
        return step["denoised"]

    guided.set_model_sampler_post_cfg_function(noted)
    oracle.sample(oracle.guider(guided, POSITIVE, NEGATIVE), tiny.latent())
    assert len(found) == 4
    assert max(found) <= ROUNDING


def test_a_rule_that_nobody_registered_is_refused_with_those_that_are():
    with pytest.raises(CraftError, match="(?s)'other' is no guidance rule.*acfg, cfg, role, weak"):
        set_guidance(tiny.sdxl(), "other")
