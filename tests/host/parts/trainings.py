"""Trainings as a test asks for them: arguments in place of filled slots."""

from __future__ import annotations

from craft_lora_pack.comfy_adapter.train.start import start_training
from craft_lora_pack.comfy_adapter.train.train import FilledSlots
from craft_lora_pack.craft_core.training import TRAINING


def _pictures(**given):
    return {key: own for key, own in given.items() if own is not None}


def train_lora(source, learned, prior, role, layer_sets, knobs, how, watch):
    filled = FilledSlots(
        _pictures(images=learned, prior=prior), (), {"role": role, "layer_sets": layer_sets}
    )
    return start_training(source, TRAINING["lora"], filled, knobs, how, watch)


def train_half(source, learned, partners, role, layer_sets, knobs, how, watch):
    filled = FilledSlots(
        _pictures(images=learned, partners=partners), (), {"role": role, "layer_sets": layer_sets}
    )
    return start_training(source, TRAINING["b4m_half"], filled, knobs, how, watch)


def train_basis(source, content, style, vgg, knobs, how, watch):
    filled = FilledSlots(_pictures(content=content, style=style), (), {"vgg": vgg})
    return start_training(source, TRAINING["basis"], filled, knobs, how, watch)


def train_merge(source, merge, how, watch):
    choices = {"fused_prompt": merge.fused_prompt, "allow_unmatched": merge.allow_unmatched}
    filled = FilledSlots(merge.pictures, merge.files, choices)
    return start_training(source, merge.method, filled, merge.knobs, how, watch)
