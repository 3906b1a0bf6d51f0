"""Train one half of a B4M pair on a MODEL of the host.

B4M (2025), arXiv:2403.19456, Secs. 4.1-4.2; the second stage is a learned merge like any other.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...craft_core.training import TRAINING, HalfPictures, Place
from ...craft_core.types import ROLES, Role
from ..model.lora_files import FOLDER
from .data import Encoder, dataset
from .denoiser import opened
from .run import Watch, target
from .train import (
    CANCEL,
    Captioned,
    How,
    Source,
    Trained,
    identity,
    layers_of,
    one_line,
    precision_of,
    trained,
)


def half_state(role: Role) -> str:
    """What tells a half's state from those of other trainings of its name."""
    return f"b4m_{role}"


def train_half(
    source: Source,
    learned: Captioned,
    partners: Captioned | None,
    role: Role,
    layer_sets: str,
    knobs: Mapping[str, Any],
    how: How,
    watch: Watch,
) -> Trained:
    """A content or style half: output/loras/<save_as>_00001_.safetensors.

    partners: pictures of the other role. layer_sets: a preset's key or lines of patterns; a half
    takes the layers of both roles, since its pair must act on the same. knobs: of `b4m_half`.
    """
    settings = TRAINING["b4m_half"].knobs(dict(knobs))
    layers, note = layers_of(ROLES, layer_sets, source.model)
    place = target(how.save_as, FOLDER, half_state(role))
    encoder = Encoder(source.model, source.clip, source.vae)
    data = dataset(encoder, learned.images, learned.captions, tick=CANCEL)
    others = None
    if partners:
        others = dataset(encoder, partners.images, partners.captions, "partner", CANCEL)
    precision = precision_of(how, place, source.model)
    with opened(source.model, None, precision.name, how.checkpointing) as denoiser:
        training = TRAINING["b4m_half"].function(
            denoiser, HalfPictures(data, others), Place(role, layers, one_line(layer_sets)),
            identity(source.model), **settings,
        )  # fmt: skip
        return trained(training, place, how, precision, watch, [note])
