"""Off is off: with nothing to add the model is bitwise what it was, before, after and on errors."""

from __future__ import annotations

import comfy.model_management
import oracle
import pytest
import tiny
import torch
from craft_lora_pack.comfy_adapter.engine import engine
from craft_lora_pack.comfy_adapter.engine.modules import model_layers
from craft_lora_pack.comfy_adapter.guide.acfg import acfg_guider, objections
from craft_lora_pack.craft_core.schedule.schedule import Schedule
from two_loras import NEGATIVE, POSITIVE, loras, routed


def plain(model):
    return oracle.sample(oracle.guider(model, POSITIVE, NEGATIVE), tiny.latent(2))


def hooks_of(model) -> int:
    return sum(len(m._forward_hooks) for m in model.model.diffusion_model.modules())


def weights_of(model):
    return {name: p.clone() for name, p in model.model.diffusion_model.named_parameters()}


@pytest.mark.parametrize("asymmetric", [False, True])
@pytest.mark.parametrize(
    ("strengths", "schedule"),
    [
        ((0.0, 0.0), None),
        ((0.7, 0.4), Schedule("constant", {"content": 0.0, "style": 0.0})),
        ((0.0, 0.0), Schedule("cosine")),
    ],
)
def test_zero_strength_or_schedule_is_bitwise_the_unrouted_model(strengths, schedule, asymmetric):
    model = tiny.sdxl()
    off = routed(model, loras(model_layers(model)), schedule, strengths)
    guider = acfg_guider(off, POSITIVE, NEGATIVE, 4.0, asymmetric)
    assert torch.equal(oracle.sample(guider, tiny.latent(2)), plain(model))


@pytest.mark.parametrize("fail_at", range(4))
@pytest.mark.parametrize(
    "kind", [RuntimeError, comfy.model_management.InterruptProcessingException]
)
def test_an_error_or_interrupt_at_any_step_leaves_the_model_bitwise_as_it_was(kind, fail_at):
    model = tiny.sdxl()
    before, weights = plain(model), weights_of(model)
    ours = acfg_guider(
        routed(model, loras(model_layers(model)), Schedule("cosine")), POSITIVE, NEGATIVE, 4.0, True
    )
    calls = []

    def failing(apply_model, arguments):
        calls.append(None)
        if len(calls) > fail_at:
            raise kind("stop")
        return apply_model(arguments["input"], arguments["timestep"], **arguments["c"])

    ours.model_patcher.set_model_unet_function_wrapper(failing)
    with pytest.raises(kind):
        oracle.sample(ours, tiny.latent(2))
    assert hooks_of(model) == 0
    after = weights_of(model)
    assert all(torch.equal(weights[name], after[name]) for name in weights)
    assert torch.equal(plain(model), before)


def test_an_error_inside_a_layer_leaves_no_hook_and_no_gate():
    model = tiny.sdxl()
    before = plain(model)
    ours = routed(model, loras(model_layers(model)))
    layer = model.model.diffusion_model.get_submodule("middle_block.1.proj_in")
    handle = layer.register_forward_pre_hook(lambda *_: (_ for _ in ()).throw(ValueError("x")))
    with pytest.raises(ValueError, match="x"):
        oracle.sample(oracle.guider(ours, POSITIVE, NEGATIVE), tiny.latent())
    handle.remove()
    assert hooks_of(model) == 0
    assert torch.equal(plain(model), before)


def test_sampling_leaves_the_model_bitwise_as_it_was_and_repeats():
    model = tiny.sdxl()
    before, weights = plain(model), weights_of(model)
    ours = routed(model, loras(model_layers(model)))
    first = oracle.sample(oracle.guider(ours, POSITIVE, NEGATIVE), tiny.latent(2))
    assert hooks_of(model) == 0
    after = weights_of(model)
    assert all(torch.equal(weights[name], after[name]) for name in weights)
    assert torch.equal(plain(model), before)
    again = oracle.sample(oracle.guider(ours, POSITIVE, NEGATIVE), tiny.latent(2))
    assert torch.equal(first, again) and not torch.equal(first, before)


def test_attaching_touches_nothing_of_the_given_model():
    model = tiny.sdxl()
    routed(model, loras(model_layers(model)))
    assert not model.wrappers and not model.additional_models and not engine.is_routed(model)


def test_without_an_unconditional_pass_the_user_is_told():
    model = tiny.sdxl()
    ours = routed(model, loras(model_layers(model)))
    (warning,) = objections(ours, cfg=1.0, asymmetric=True)
    assert "cfg 1" in warning
    assert objections(ours, cfg=2.0, asymmetric=True) == []
    assert objections(ours, cfg=1.0, asymmetric=False) == []
    assert "no routed LoRAs" in objections(model, cfg=2.0, asymmetric=True)[0]


def test_at_cfg_1_both_guidances_are_the_conditional_rows():
    model = tiny.sdxl()
    ours = routed(model, loras(model_layers(model)))
    results = [
        oracle.sample(acfg_guider(ours, POSITIVE, NEGATIVE, 1.0, asymmetric), tiny.latent())
        for asymmetric in (True, False)
    ]
    assert torch.equal(*results)
