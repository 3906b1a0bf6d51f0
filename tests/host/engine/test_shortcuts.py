"""What the host saves within a model call, or from one to the next, takes nothing from branches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import comfy.cli_args
import comfy.ops
import comfy.supported_models
import oracle
import pytest
import tiny
import torch
from craft_lora_pack.comfy_adapter.engine.bank import BranchModule, layer_parts
from craft_lora_pack.comfy_adapter.engine.hooks import (
    GatedChunks,
    ModelCall,
    attached,
    layer_hooks,
)
from craft_lora_pack.comfy_adapter.engine.modules import model_layers
from craft_lora_pack.comfy_adapter.engine.shortcuts import layers_called
from craft_lora_pack.comfy_adapter.train.denoiser import open_denoiser
from craft_lora_pack.craft_core.schedule.schedule import Schedule
from craft_lora_pack.craft_core.types import Factors
from older_hosts import later_module, needs
from oracle import LAW, distance
from quantised import QUANTISED
from tiny_families import TINY
from torch import Tensor
from two_loras import NEGATIVE, POSITIVE, loras, routed

COSINE = Schedule("cosine")
FLAGS = ("disable_comfy_compiler", "disable_cuda_graphs")  # of hosts from 0.34 and 0.33 on
WIDE, NARROW = 96, 64


def int8_mlp() -> Any:
    """The host's feed-forward that folds its activation into the second layer's INT8 kernel."""
    ops = comfy.ops.mixed_precision_ops({"mixed_ops": True}, compute_dtype=torch.float32)
    made = later_module("comfy.ldm.minimax.model").MLP(NARROW, WIDE, torch.float32, "cpu", ops)
    generator = torch.Generator().manual_seed(0)
    first = torch.randn(2 * WIDE, NARROW, generator=generator) / NARROW**0.5
    second = torch.randn(NARROW, WIDE, generator=generator) / WIDE**0.5
    made.load_state_dict(
        {"fc1.weight": first, **QUANTISED["INT8"].layer(second, "fc2.")}, strict=False
    )
    return made


def activated(mlp: Any, x: Tensor) -> Tensor:
    """What the second layer is given."""
    gate, up = mlp.fc1(x).chunk(2, dim=-1)
    return torch.nn.functional.silu(gate) * up


@torch.inference_mode()
def test_a_layer_with_its_activation_in_one_kernel_has_its_branches_and_without_them_the_kernel():
    torch.manual_seed(1)
    network, x = torch.nn.ModuleDict({"mlp": int8_mlp()}), torch.randn(2, 5, NARROW)
    mlp, (down, up) = network["mlp"], (torch.randn(3, WIDE), torch.randn(NARROW, 3))
    updates = {"mlp.fc2": (Factors(down, up),)}
    parts = {
        path: layer_parts(path, [updates], [BranchModule(updates, torch.float32)])
        for path in updates
    }
    call = ModelCall()
    fused, apart = mlp(x), mlp.fc2(activated(mlp, x))
    wanted = apart[1:] + 0.5 * activated(mlp, x)[1:] @ down.T @ up.T
    with attached(layer_hooks(network, parts, call)):
        call.set(2, [GatedChunks(1, 2, [[0.5]])])
        assert torch.equal(mlp(x), fused)  # the kernel alone passes over branches
        with layers_called():
            found = mlp(x)
            call.clear()
            assert torch.equal(mlp(x), fused)
    assert distance(found[1:], wanted) <= LAW
    assert torch.equal(found[:1], apart[:1])
    assert torch.equal(mlp(x), fused)


def h3():
    """A MiniMax H3 model with such feed-forwards."""
    needs(hasattr(comfy.supported_models, "MiniMaxH3"), "MiniMax H3")
    model = TINY["MiniMaxH3"].make("MiniMaxH3")
    for block in model.model.diffusion_model.blocks:
        block.mlp = int8_mlp()
    return model


def sample(kind: str, model: Any) -> Tensor:
    conditionings = (TINY[kind].conditioning(seed) for seed in (1, 2))
    guider = oracle.guider(model, *conditionings)
    made = oracle.sample(guider, TINY[kind].latent(), scheduler="simple", steps=4)
    return torch.cat([one.flatten(1) for one in made.unbind()], 1) if made.is_nested else made


@torch.inference_mode()
def test_a_run_calls_such_layers_and_leaves_the_hosts_function_as_it_was(monkeypatch):
    model, before = h3(), comfy.ops.linear_input_act
    states = [
        {name: value for name, value in state.items() if "mlp_fc2" in name}
        for state in loras(model_layers(model))
    ]
    assert all(states)
    found, plain = sample("MiniMaxH3", routed(model, states)), sample("MiniMaxH3", model)
    assert comfy.ops.linear_input_act is before
    assert distance(found, plain) > 0.01
    monkeypatch.setattr(
        comfy.ops, "linear_input_act",
        lambda layer, x, name: layer(comfy.ops.INPUT_ACT_EAGER[name](x)),
    )  # fmt: skip
    assert distance(found, sample("MiniMaxH3", routed(model, states))) <= LAW


def before_each_call(model: Any, act: Callable[[dict], None]) -> Any:
    """A clone with `act` on the transformer options of each of its model calls."""

    def call(apply: Callable, given: dict) -> Tensor:
        act(given["c"]["transformer_options"])
        return apply(given["input"], given["timestep"], **given["c"])

    clone = model.clone()
    clone.set_model_unet_function_wrapper(call)
    return clone


def run(model: Any) -> Tensor:
    return oracle.sample(oracle.guider(model, POSITIVE, NEGATIVE), tiny.latent(), steps=3)


@pytest.mark.parametrize("fails", [False, True])
def test_nothing_recorded_is_replayed_while_branches_act_and_the_hosts_flags_are_put_back(
    monkeypatch, fails
):
    """The flags are those of newer hosts; no other gets one."""
    args = comfy.cli_args.args
    for name, value in zip(FLAGS, (False, True), strict=True):
        monkeypatch.setattr(args, name, value, raising=False)
    seen = []

    def look(_options: dict) -> None:
        seen.append([getattr(args, name) for name in FLAGS])
        if fails:
            raise RuntimeError("a model call fails")

    model = tiny.sdxl()
    watched = before_each_call(routed(model, loras(model_layers(model))), look)
    if fails:
        with pytest.raises(RuntimeError, match="a model call fails"):
            run(watched)
    else:
        run(watched)
    assert seen and all(one == [True, True] for one in seen)
    assert [getattr(args, name) for name in FLAGS] == [False, True]


def test_a_host_without_such_flags_gets_none(monkeypatch):
    for name in FLAGS:
        monkeypatch.delattr(comfy.cli_args.args, name, raising=False)
    model, seen = tiny.sdxl(), []
    ours = routed(model, loras(model_layers(model)))
    run(before_each_call(ours, lambda _: seen.append(set(vars(comfy.cli_args.args)))))
    assert seen and not any(names & set(FLAGS) for names in seen)


def test_a_training_replays_nothing_either(monkeypatch):
    for name in FLAGS:
        monkeypatch.setattr(comfy.cli_args.args, name, False, raising=False)
    with open_denoiser(tiny.sdxl(), None, "fp32"):
        assert all(getattr(comfy.cli_args.args, name) for name in FLAGS)
    assert not any(getattr(comfy.cli_args.args, name) for name in FLAGS)


def test_keys_of_the_text_are_not_kept_from_step_to_step_where_branches_change():
    """HiDream-O1's own cache of the keys that its text had at the first step."""
    kind = "HiDreamO1"
    needs(hasattr(comfy.supported_models, kind), kind)
    model = TINY[kind].make(kind)
    network = model.model.diffusion_model
    ours = routed(model, loras(model_layers(model)), COSINE)
    anew = before_each_call(ours, lambda _: network.clear_kv_cache())
    found, wanted = sample(kind, ours), sample(kind, anew)
    network.clear_kv_cache = lambda: None  # the text's first keys in all steps
    assert distance(sample(kind, ours), wanted) > 10 * LAW
    del network.clear_kv_cache
    assert distance(found, wanted) <= LAW


@pytest.mark.parametrize("schedule", [None, COSINE])
def test_what_nodes_have_models_keep_is_kept_only_where_branches_act_alike(schedule):
    """The options of Wan Animate 2 Cache and of Qwen-Image 2.1, of hosts from 0.33 on."""
    given = {"animate2_cache": object(), "qwen_image21_cache": {"device": "gpu"}}
    model, seen = tiny.sdxl(), []

    def look(options: dict) -> None:
        seen.append({name: options[name] for name in given if name in options})

    ours = before_each_call(routed(model, loras(model_layers(model)), schedule), look)
    ours.model_options["transformer_options"].update(given)
    run(ours)
    kept = given if schedule is None else {"qwen_image21_cache": {"device": "off"}}
    assert seen and all(one == kept for one in seen)
    assert ours.model_options["transformer_options"].items() >= given.items()
