"""A small model with two LoRAs, by our engine and by the host's own means."""

from __future__ import annotations

import comfy.sd
import oracle
import tiny
import torch
from craft_lora_pack.comfy_adapter.engine import engine
from craft_lora_pack.comfy_adapter.engine.modules import host_names, model_layers
from craft_lora_pack.comfy_adapter.guide.acfg import acfg_guider
from craft_lora_pack.craft_core.fusion.compose import compose
from craft_lora_pack.craft_core.lora import parse_lora
from craft_lora_pack.craft_core.types import Bank, Branch, constant_gates

STRENGTHS = (0.7, 0.4)
FAMILIES = {"sd15": tiny.sd15, "sdxl": tiny.sdxl}
POSITIVE, NEGATIVE = tiny.conditioning(1), tiny.conditioning(2)


def loras(layers):
    return (tiny.random_lora(layers, 4, seed=11), tiny.random_lora(layers, 3, seed=12))


def bank_of(model, states, strengths=STRENGTHS) -> Bank:
    layers = model_layers(model)
    roles = ("content", "style")
    branches = [
        Branch(role, role, parse_lora(state, {}, layers, host_names(model)).layers, strength)
        for role, state, strength in zip(roles, states, strengths, strict=True)
    ]
    return Bank.of(branches, list(layers))


def routed(model, states, schedule=None, strengths=STRENGTHS):
    bank = bank_of(model, states, strengths)
    ones = constant_gates(torch.ones(len(bank.layers), len(bank.branches)))
    return engine.attach(model, bank, compose(ones, bank, schedule))


def two_loaders(model, states, strengths=STRENGTHS):
    """What the host's two LoraLoader nodes make of the same files."""
    for state, strength in zip(states, strengths, strict=True):
        model, _ = comfy.sd.load_lora_for_models(model, None, state, strength, 0.0)
    return model


def asymmetric_pair(family, schedule, strengths_at, cfg=4.0):
    """(our ACFG guider, the two-model reference) on the same weights and files."""
    model, other, twin = (FAMILIES[family]() for _ in range(3))
    layers = model_layers(model)
    states = loras(layers)
    ours = acfg_guider(routed(model, states, schedule), POSITIVE, NEGATIVE, cfg, True)
    deltas = [oracle.dense_deltas(state, layers) for state in states]
    reference = oracle.TwoModels(other, twin, deltas, strengths_at)
    reference.set_conds(POSITIVE, NEGATIVE)
    reference.set_cfg(cfg)
    return ours, reference


def cosine(progress):
    f = (1 - torch.cos(torch.tensor(torch.pi * (1 - progress), dtype=torch.float64)).item()) / 2
    return STRENGTHS[0] * f, STRENGTHS[1] * (1 - f)
