"""Begin any training on a MODEL of the host, from the filled data slots of its recipe.

A recipe that only needs pictures, a role and layers declares how they become its arguments, and
is read by `_plain`. The few that need more of the host name a reader below.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from ...craft_core.projection import backbone_metadata
from ...craft_core.registry import Method
from ...craft_core.routing.markers import parse
from ...craft_core.routing.trigger_words import common_phrases, stated
from ...craft_core.training import SlotContents, StepCallback
from ...craft_core.training.slots import LAYERS, ROLE, LayerSlot, PictureSlot
from ...craft_core.types import ROLES
from ..model.basis import projected_from
from .basis import read_pairs
from .data import caption_lines
from .denoiser import is_copyable, open_denoiser
from .encoder import read_experts
from .merge import read_merging
from .run import save_place
from .sample import with_samples
from .sizes import fit_pictures
from .train import (
    FilledSlots,
    How,
    ModelParts,
    Prepared,
    Trained,
    datasets,
    identity,
    layers_of,
    one_line,
    precision_of,
    trained,
)

Reader = Callable[[ModelParts, Method, FilledSlots, Mapping[str, Any]], Prepared]


def start_training(
    source: ModelParts,
    method: Method,
    filled: FilledSlots,
    knobs: Mapping[str, Any],
    how: How,
    watch: StepCallback,
) -> Trained:
    """Train to the end: output/<folder of the slots>/<save_as>_00001_.safetensors."""
    settings, slots = method.knobs(dict(knobs)), method.traits.slots
    part = slots.state_part(filled.choices.get(ROLE, ""), method.key)
    place = save_place(how.save_as, slots.folder, part)
    filled, sizes = fit_pictures(source, method, filled, how.warn)
    prepared = READERS[slots.reader](source, method, filled, settings)
    backbone = backbone_metadata(projected_from(source.model))
    prepared = replace(
        prepared, notes=[sizes, *prepared.notes], metadata={**prepared.metadata, **backbone}
    )
    precision = precision_of(how, place, source.model)
    sample_every = how.sample_every
    if sample_every and prepared.vae is None and not is_copyable(source.vae):
        how.warn(
            "The training shows no sample pictures: under dynamic VRAM it needs its own copy of "
            "the VAE, and this VAE's loader does not tell how to load it again"
        )
        sample_every = 0
    vae = source.vae if sample_every else prepared.vae
    with open_denoiser(source.model, vae, precision.name, how.checkpointing) as denoiser:
        training = method.function(denoiser, *prepared.data(denoiser), **settings)
        if sample_every:
            watch = with_samples(watch, denoiser, sample_every, how.show, how.warn)
        return trained(training, place, how, precision, watch, prepared)


def _plain(
    source: ModelParts, method: Method, filled: FilledSlots, settings: Mapping[str, Any]
) -> Prepared:
    slots = method.traits.slots
    layers, note, asked = {}, "", ""
    if slots.of(LayerSlot):
        asked = filled.choices[LAYERS]
        layers, note = layers_of(asked, source.model)
    given = SlotContents(
        datasets(source, method, filled, settings), filled.choices.get(ROLE, ROLES[0]), layers,
        one_line(asked), identity(source.model),
    )  # fmt: skip
    words = stated(_learned_words(method, filled))
    return Prepared(lambda denoiser: slots.arrange(given), [note], metadata=words)


def _learned_words(method: Method, filled: FilledSlots) -> list[str]:
    """The phrases that all captions of what is learned mark for the role that learns it."""
    words: list[str] = []
    for slot in method.traits.slots.of(PictureSlot):
        role = filled.choices.get(ROLE, slot.key)
        if slot.required and role in ROLES and slot.key in filled.pictures:
            captions = [parse(one) for one in caption_lines(filled.pictures[slot.key].captions)]
            words += common_phrases(captions, role)
    return words


READERS: Mapping[str, Reader] = {
    "": _plain,
    "perceptual": read_pairs,
    "experts": read_experts,
    "merging": read_merging,
}
