"""Trainings as a test asks for them: arguments in place of filled slots."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import small_world_models as small
import torch
from craft_lora_pack.comfy_adapter.model.lora_files import BranchFile
from craft_lora_pack.comfy_adapter.train.start import start_training
from craft_lora_pack.comfy_adapter.train.train import Captioned, FilledSlots, How, Trained
from craft_lora_pack.craft_core.training import LEARNED, TRAINING, training_of
from craft_lora_pack.craft_core.training.slots import PictureSlot

TRAININGS = (*TRAINING.keys(), *LEARNED.keys())
FEW_STEPS = 2  # of one_of_each
_CAPTIONS = {
    "content": "a <c>sks animal</c> in flat style",
    "style": "a house in <s>zwx style</s>",
    "images": "<c>a sks animal</c> in <s>zwx style</s>",
}
# As torch says that memory ran out: of a card, of one that it asks later, and of a Mac's, which the
# host does not know.
NO_MEMORY = {
    "now": partial(torch.OutOfMemoryError, "Allocation on device"),
    "later": partial(
        getattr(torch, "AcceleratorError", RuntimeError),
        "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported",
    ),
    "on a Mac": partial(RuntimeError, "MPS backend out of memory (MPS allocated: 9.00 GB)"),
}
_APART = "content: middle_block\nstyle: output_blocks.8"
_LORAS = (BranchFile(small.CONTENT, "content", 0.9), BranchFile(small.STYLE, "style", 0.6))


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


def one_of_each(key: str, source: Any, name: str, **how: Any) -> Trained:
    """A few steps of any training on a model of the small world, in fp32."""
    branches: Sequence[BranchFile] = _LORAS
    if key == "b4m":
        branches = [_half(role, source, f"{name}_{role}", **how) for role in ("content", "style")]
    filled = FilledSlots(
        _one_picture_each(key), branches,
        {"role": "content", "layer_sets": _APART if key == "joint" else "all", "vgg": "none",
         "allow_unmatched": False, "fused_prompt": _CAPTIONS["images"]},
    )  # fmt: skip
    return _few_steps(key, source, filled, name, how)


def _half(role: str, source: Any, name: str, **how: Any) -> BranchFile:
    choices = {"role": role, "layer_sets": "all"}
    pictures = {"images": Captioned([_picture(role)], [_CAPTIONS[role]])}
    made = _few_steps("b4m_half", source, FilledSlots(pictures, (), choices), name, how)
    return BranchFile(made.path.name, role, 1.0, path=str(made.path))


def _few_steps(key: str, source: Any, filled: FilledSlots, name: str, how: Any) -> Trained:
    method = training_of(key)
    known = {one.name for one in method.parameters}
    knobs = {"steps": FEW_STEPS, "learning_rate": 1e-2, "warmup": 0, "rank": 2, "save_as": "fp32"}
    given = method.knobs({key: value for key, value in knobs.items() if key in known})
    with torch.inference_mode():
        return start_training(
            source, method, filled, given, How(name, precision="fp32", **how), lambda training: None
        )


def _one_picture_each(key: str) -> dict[str, Captioned]:
    slots = training_of(key).traits.slots.of(PictureSlot)
    return {
        one.key: Captioned([_picture(one.key)], [_CAPTIONS[one.key]])
        for one in slots
        if one.required
    }


def _picture(seed: str) -> torch.Tensor:
    generator = torch.Generator().manual_seed(len(seed))
    return torch.rand(1, 64, 64, 3, generator=generator)
