"""What only videos have: windows over the frames, five-dimensional convolutions, and sound."""

from __future__ import annotations

import comfy.sd
import comfy_extras.nodes_context_windows as context_windows
import oracle
import pytest
import tiny
import torch
from craft_lora_pack.comfy_adapter.engine import engine
from craft_lora_pack.comfy_adapter.engine.modules import host_names, model_layers
from craft_lora_pack.comfy_adapter.guide.acfg import acfg_guider
from craft_lora_pack.craft_core.families import runs_early
from craft_lora_pack.craft_core.fusion.compose import compose
from craft_lora_pack.craft_core.lora import parse_lora
from craft_lora_pack.craft_core.routing import resolve
from craft_lora_pack.craft_core.types import Bank, Branch, constant_gates
from oracle import distance
from tiny_families import TINY

LAW = 2e-5
POSITIVE, NEGATIVE = tiny.conditioning(1), tiny.conditioning(2)


def routed(model, branches):
    bank = Bank.of(branches, list(model_layers(model)))
    ones = constant_gates(torch.ones(len(bank.layers), len(bank.branches)))
    return engine.attach(model, bank, compose(ones, bank))


def windowed(model):
    """As the host's node Context Windows (Manual) makes it: windows of 4 frames, 2 in common."""
    return context_windows.ContextWindowsManualNode.execute(
        model, context_length=4, context_overlap=2, context_schedule="standard_static",
        context_stride=1, closed_loop=False, fuse_method="pyramid", dim=2, freenoise=False,
    ).args[0]  # fmt: skip


def clip_of_frames():
    return {"samples": torch.zeros(1, 16, 9, 8, 8)}


def sample(guider):
    return oracle.sample(guider, clip_of_frames(), scheduler="simple", steps=2)


@pytest.fixture(scope="module")
def wan():
    """(model, layers, file, branches): a LoRA on every layer, the 5-D patch embedding too."""
    model = TINY["WAN21_T2V"].make("WAN21_T2V")
    layers = model_layers(model)
    assert len(layers["patch_embedding"]) == 5
    state = tiny.random_lora(layers, 3, seed=5)
    file = parse_lora(state, {}, layers, host_names(model))
    return model, layers, state, [Branch("a", "content", file.layers, 0.7)]


def test_in_context_windows_it_is_the_hosts_lora_loader(wan):
    model, _, state, branches = wan
    loaded, _ = comfy.sd.load_lora_for_models(model, None, state, 0.7, 0.0)
    ours, theirs, plain, whole = (
        sample(oracle.guider(one, POSITIVE, NEGATIVE))
        for one in (windowed(routed(model, branches)), windowed(loaded), windowed(model), model)
    )
    assert distance(plain, whole) > 0.01, "the windows must matter"
    assert distance(theirs, plain) > 0.01, "the file must matter"
    assert distance(ours, theirs) <= LAW


def test_in_context_windows_asymmetric_guidance_is_two_separately_patched_models(wan):
    model, layers, state, branches = wan
    other, twin = (TINY["WAN21_T2V"].make("WAN21_T2V") for _ in range(2))
    deltas = [oracle.dense_deltas(state, layers)]
    reference = oracle.TwoModels(windowed(other), twin, deltas, lambda progress: (0.7,))
    reference.set_conds(POSITIVE, NEGATIVE)
    reference.set_cfg(4.0)
    ours = acfg_guider(windowed(routed(model, branches)), POSITIVE, NEGATIVE, 4.0, True)
    assert distance(sample(ours), sample(reference)) <= LAW


def test_picture_and_sound_of_one_file_have_strengths_of_their_own():
    """Two branches of one file on LTXAV: the layer set `video-audio` parts its layers."""
    kind = "LTXAV"
    model = TINY[kind].make(kind)
    layers = {path: shape for path, shape in model_layers(model).items() if not runs_early(path)}
    sets = resolve("video-audio", layers)
    assert not sets.overlap and len(sets.content) > 20 and len(sets.style) > 20
    state = tiny.random_lora(layers, 3, seed=5)
    parsed = parse_lora(state, {}, model_layers(model), host_names(model)).layers

    def branch(role, own, strength):
        return Branch(role, role, {p: parsed[p] for p in parsed if p in own}, strength)

    two = [branch("content", sets.content, 0.8), branch("style", sets.style, -0.5)]
    stems = {f"lora_unet_{path.replace('.', '_')}": path for path in layers}

    def part(own):
        return {k: v for k, v in state.items() if stems[k.split(".")[0]] in own}

    theirs = model
    for own, strength in ((sets.content, 0.8), (sets.style, -0.5)):
        theirs, _ = comfy.sd.load_lora_for_models(theirs, None, part(own), strength, 0.0)

    def flat(one):
        guider = oracle.guider(one, *(TINY[kind].conditioning(seed) for seed in (1, 2)))
        made = oracle.sample(guider, TINY[kind].latent(), scheduler="simple", steps=2)
        return torch.cat([samples.flatten(1) for samples in made.unbind()], 1)

    assert distance(flat(theirs), flat(model)) > 0.005
    assert distance(flat(routed(model, two)), flat(theirs)) <= LAW
