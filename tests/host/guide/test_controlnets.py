"""ControlNets that compute with the MODEL's own weights: the branches act there as the host's LoRA
loaders do, and under ACFG on the conditional rows alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import comfy.controlnet
import comfy.ops
import comfy.sd
import oracle
import pytest
import tiny
import torch
from adapter_samples import HOST_DROPS, whole_file
from comfy.cldm.dit_embedder import ControlNetEmbedder
from comfy.ldm.qwen_image.controlnet import QwenImageFunControlNetModel
from comfy_api.torch_helpers import set_torch_compile_wrapper
from craft_lora_pack.comfy_adapter.engine import engine
from craft_lora_pack.comfy_adapter.engine.modules import host_names, lora_layers, model_layers
from craft_lora_pack.comfy_adapter.guide.acfg import acfg_guider
from craft_lora_pack.craft_core.fusion.compose import compose
from craft_lora_pack.craft_core.lora import parse_lora
from craft_lora_pack.craft_core.lora.keys import kohya_name
from craft_lora_pack.craft_core.schedule.schedule import Schedule
from craft_lora_pack.craft_core.types import Bank, Branch, constant_gates
from oracle import LAW, distance
from two_loras import STRENGTHS, cosine, loras, two_loaders

STEPS = 2


@dataclass(frozen=True)
class Case:
    """A ControlNet and the model it is of. size: of the latent. met: where the LoRAs are to be on
    these layers alone, which the ControlNet meets."""

    model: Callable[[], Any]
    control: Callable[[], Any]
    size: tuple[int, ...]
    met: tuple[str, ...] = ()

    def layers(self, model) -> dict:
        every = model_layers(model)
        return {p: s for p, s in every.items() if not self.met or p.startswith(self.met)}


def hint(size, seed=3):
    return torch.rand(1, *size, generator=torch.Generator().manual_seed(seed))


def control_lora():
    """Of the SDXL class: zero convolutions and the hint's layers of its own; in a few layers of the
    model a low-rank difference, and one whole weight with its bias."""
    network, generator = tiny.control().control_model, torch.Generator().manual_seed(5)
    state = {
        key: value
        for key, value in network.state_dict().items()
        if key.split(".")[0] in ("input_hint_block", "zero_convs", "middle_block_out")
        or key.startswith("input_blocks.1.0.out_layers.3.")
    }
    for path in ("input_blocks.1.0.in_layers.2", "middle_block.1.transformer_blocks.0.attn1.to_q"):
        out, *rest = network.get_submodule(path).weight.shape
        state[f"{path}.up"] = 0.3 * torch.randn(out, 2, generator=generator)
        state[f"{path}.down"] = 0.3 * torch.randn(2, *rest, generator=generator)
    return comfy.controlnet.ControlLora(state).set_cond_hint(hint((3, 128, 128)), 0.7, (0.0, 0.8))


def qwen_fun(seed=5):
    network = QwenImageFunControlNetModel(
        132, 64, 4, 16, 2, 2, (0, 1), dtype=torch.float32, operations=comfy.ops.disable_weight_init
    )
    tiny.randomise_all(network, seed)
    made = comfy.controlnet.QwenFunControlNet(
        network, compression_ratio=1, load_device=torch.device("cpu"), extra_conds=[]
    )
    return made.set_cond_hint(hint((16, 8, 8)), 0.7, (0.0, 1.0))


def sd35(double):
    network = ControlNetEmbedder(
        img_size=None, patch_size=2, in_chans=16, num_layers=2, main_model_double=2,
        double_y_emb=double, attention_head_dim=64, num_attention_heads=2,
        adm_in_channels=tiny.POOLED, device="cpu", dtype=torch.float32,
        operations=comfy.ops.disable_weight_init,
    )  # fmt: skip
    tiny.randomise_all(network, 6)
    made = comfy.controlnet.ControlNetSD35(
        network, compression_ratio=1, load_device=torch.device("cpu")
    )
    return made.set_cond_hint(hint((16, 8, 8)), 0.7, (0.0, 1.0))


CASES = {
    "Control-LoRA": Case(tiny.sdxl, control_lora, (4, 16, 16)),
    "Qwen-Image Fun": Case(tiny.qwen_image, qwen_fun, (16, 1, 8, 8)),
    "Qwen-Image Fun, its own layers": Case(
        tiny.qwen_image, qwen_fun, (16, 1, 8, 8), ("img_in", "txt_in", "time_text_embed")
    ),
    "SD 3.5": Case(tiny.sd3, lambda: sd35(False), (16, 8, 8), ("x_embedder",)),
    "SD 3.5, double": Case(tiny.sd3, lambda: sd35(True), (16, 8, 8), ("y_embedder",)),
}


def controlled(seed, control):
    """A prompt, with a ControlNet where one is given."""
    made = tiny.conditioning(seed)
    if control is None:
        return made
    return [[c, {**d, "control": control, "control_apply_to_uncond": False}] for c, d in made]


def latent(case, batch=1):
    return {"samples": torch.zeros(batch, *case.size)}


def symmetric(case, model, control=None, on_negative=None, batch=1):
    prompts = controlled(1, control), controlled(2, on_negative)
    return oracle.sample(oracle.guider(model, *prompts), latent(case, batch), steps=STEPS)


def routed(model, states, strengths, schedule=None):
    layers = lora_layers(model)
    branches = [
        Branch(role, role, parse_lora(state, {}, layers, host_names(model)).layers, strength)
        for role, state, strength in zip(("content", "style"), states, strengths, strict=False)
    ]
    bank = Bank.of(branches, list(layers))
    ones = constant_gates(torch.ones(len(bank.layers), len(branches)))
    return engine.attach(model, bank, compose(ones, bank, schedule))


@pytest.mark.parametrize("on_negative", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_branches_act_in_it_as_two_lora_loaders_do(name, on_negative):
    case = CASES[name]
    model = case.model()
    states = loras(case.layers(model))
    control = case.control()
    both = {"control": control, "on_negative": control if on_negative else None, "batch": 2}
    ours = symmetric(case, routed(model, states, STRENGTHS), **both)
    theirs = symmetric(case, two_loaders(model, states), **both)
    assert distance(theirs, symmetric(case, two_loaders(model, states), batch=2)) > 0.01
    assert distance(theirs, symmetric(case, model, **both)) > 1e-3
    assert distance(ours, theirs) <= LAW


@pytest.mark.parametrize("scheduled", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_asymmetric_it_is_of_two_separately_patched_models(name, scheduled):
    """Rows of the negative prompt are the backbone's in the ControlNet, too."""
    case = CASES[name]
    model, other, twin = (case.model() for _ in range(3))
    layers = case.layers(model)
    states, schedule = loras(layers), Schedule("cosine") if scheduled else None
    prompts = [(controlled(1, one), controlled(2, one)) for one in (case.control(), case.control())]
    ours = acfg_guider(routed(model, states, STRENGTHS, schedule), *prompts[0], 4.0, True)
    deltas = [oracle.dense_deltas(state, layers) for state in states]
    at = cosine if scheduled else lambda progress: STRENGTHS
    reference = oracle.TwoModels(other, twin, deltas, at)
    reference.set_conds(*prompts[1])
    reference.set_cfg(4.0)
    made = oracle.sample(ours, latent(case), steps=STEPS)
    assert distance(made, oracle.sample(reference, latent(case), steps=STEPS)) <= LAW


@pytest.mark.parametrize("kind", ["LoHa", "DoRA", "GLoRA", "OFT"])
@pytest.mark.parametrize("name", CASES)
def test_every_kind_acts_in_it_also_of_routers_and_loaders_in_a_row(name, kind):
    case = CASES[name]
    model = case.model()
    layers = case.layers(model)
    places = {kohya_name(path): shape for path, shape in layers.items()}
    own, _ = whole_file(kind, places, seed=3, without=HOST_DROPS)
    states = (tiny.random_lora(layers, 4, 12), own, tiny.random_lora(layers, 4, 13))
    first = routed(model, states[:1], (0.7,))
    ours, _ = comfy.sd.load_lora_for_models(
        routed(first, states[1:2], (0.8,)), None, states[2], 0.5, 0.0
    )
    theirs = two_loaders(model, states, (0.7, 0.8, 0.5))
    control = case.control()
    made = symmetric(case, ours, control)
    assert distance(made, symmetric(case, theirs, control)) <= LAW


@pytest.mark.parametrize("name", ["Control-LoRA", "Qwen-Image Fun"])
def test_one_may_ask_another_before_it(name):
    case = CASES[name]
    model = case.model()
    states = loras(case.layers(model))
    chain = case.control().set_previous_controlnet(case.control())
    ours = symmetric(case, routed(model, states, STRENGTHS), chain)
    theirs = symmetric(case, two_loaders(model, states), chain)
    assert distance(theirs, symmetric(case, two_loaders(model, states), chain.copy())) > 1e-3
    assert distance(ours, theirs) <= LAW


@pytest.mark.parametrize("name", CASES)
def test_nothing_of_it_stays_after_a_run_or_an_error(name):
    case = CASES[name]
    model, control = case.model(), case.control()
    plain = symmetric(case, model, control)
    ours = routed(model, loras(case.layers(model)), STRENGTHS)
    symmetric(case, ours, control)
    assert "get_control" not in vars(control)
    assert torch.equal(symmetric(case, model, control), plain)

    def failing(apply_model, arguments):
        raise RuntimeError("stop")

    ours.set_model_unet_function_wrapper(failing)
    with pytest.raises(RuntimeError, match="stop"):
        symmetric(case, ours, control)
    assert "get_control" not in vars(control)
    networks = [model.model.diffusion_model, control.control_model]
    assert not any(m._forward_hooks for one in networks if one for m in one.modules())
    assert torch.equal(symmetric(case, model, control), plain)


def test_a_compiled_model_that_it_calls_is_the_same_uncompiled():
    case = CASES["Qwen-Image Fun"]
    model, control = case.model(), case.control()
    ours = routed(model, loras(case.layers(model)), STRENGTHS)
    expected = symmetric(case, ours, control)
    compiled = ours.clone()
    set_torch_compile_wrapper(model=compiled, backend="eager")
    assert distance(symmetric(case, compiled, control), expected) <= LAW
