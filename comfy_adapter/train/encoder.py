"""What an expert encoder learns from: LoRAs with the branches a Router would get, and phrases.

CRAFT-LoRA (2026), arXiv:2602.18936, App. B.1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ...craft_core.encoder.network import PhraseEmbeddings
from ...craft_core.errors import CraftError
from ...craft_core.fusion import FUSION
from ...craft_core.registry import Method
from ...craft_core.routing.markers import MarkedPrompt, gammas
from ...craft_core.routing.plan import PlanRequest, plan
from ...craft_core.training import Dataset, Lessons, Phrased
from ...craft_core.training.slots import LAYERS, UNMATCHED, PictureSlot
from ...craft_core.types import Branch, LoraFile
from ..engine.modules import lora_layers
from ..model.expert_encoder import concept, phrases
from ..model.given import given, kept
from ..model.lora_files import BranchFile, patch_text_encoder, read_branch_file
from .data import ExampleEncoder, dataset, marked_captions
from .train import CANCEL, Captioned, FilledSlots, ModelParts, Prepared, identity, is_mirrored


@dataclass(frozen=True)
class Experts:
    """The LoRAs whose scales are learned. layer_sets: a preset's key or lines of patterns.

    allow_unmatched: go without the keys and patterns that match nothing.
    """

    files: Sequence[BranchFile]
    layer_sets: str
    allow_unmatched: bool = False


def read_experts(
    source: ModelParts, method: Method, filled: FilledSlots, settings: Mapping[str, Any]
) -> Prepared:
    """The recipe's lessons: pictures of what the LoRAs were trained for, and of what they were not;
    captions have their phrases marked."""
    experts = Experts(filled.loras, filled.choices[LAYERS], filled.choices[UNMATCHED])
    files = [read_branch_file(one, source.model, experts.allow_unmatched) for one in experts.files]
    branches, notes = _branches(source, experts, files)
    texts = _Texts(source, experts.files, files, is_mirrored(settings))
    phrased = {
        slot.key: texts.phrased(filled.pictures[slot.key], slot.noun)
        for slot in method.traits.slots.of(PictureSlot)
        if slot.key in filled.pictures
    }
    lessons = Lessons(phrased["images"], phrased.get("other"))
    own, layer_set = concept(experts.files), "; ".join(experts.layer_sets.strip().splitlines())
    data = lessons, branches, own, layer_set, identity(source.model)
    return Prepared(lambda denoiser: data, notes, tells=False)


def _branches(
    source: ModelParts, experts: Experts, files: Sequence[LoraFile]
) -> tuple[list[Branch], list[str]]:
    """(the branches with the layers each may act on, report lines), as the Router has them."""
    if not files:
        raise CraftError(
            "No LoRA is connected",
            "An expert encoder learns how much of each LoRA a phrase calls for",
            "Connect Load LoRA Branch or Train Content/Style LoRA to branches",
        )
    asked = PlanRequest(
        FUSION["craft"], layer_sets=experts.layer_sets, allow_unmatched=experts.allow_unmatched,
        whole=True,
    )  # fmt: skip
    model = source.model
    pairs = zip(experts.files, files, strict=True)
    candidates = [given(one, file, model, source.clip) for one, file in pairs]
    with kept():
        made = plan(candidates, asked, lora_layers(model))
    branches = [
        replace(one, layers={path: f for path, f in one.layers.items() if path in where})
        for one, where in zip(made.bank.branches, made.layer_sets, strict=True)
    ]
    counts = zip(branches, made.adapted, strict=True)
    return branches, [
        f"Layer sets: {experts.layer_sets.strip()}",
        *(f"{one.role} {one.name}: scales on {len(one.layers)} of {adapted} layers"
          for one, adapted in counts),
        *made.notes,
    ]  # fmt: skip


class _Texts:
    """Captions as the Router would encode them: the text-encoder parts of the LoRAs that a
    caption switches on are on the CLIP, and phrases are read by the CLIP as it was connected.
    mirror: as dataset has it."""

    def __init__(
        self,
        source: ModelParts,
        chosen: Sequence[BranchFile],
        files: Sequence[LoraFile],
        mirror: bool,
    ) -> None:
        self.source, self.chosen, self.files, self.mirror = source, chosen, files, mirror
        self.encoders: dict[tuple[float, ...], ExampleEncoder] = {}

    def phrased(self, given: Captioned, what: str) -> Phrased:
        """Captioned pictures with their phrases and gammas. what: for messages."""
        off = (0.0,) * len(self.chosen)
        encoder = self._encoder(off)
        data = dataset(encoder, given.images, given.captions, what, CANCEL, self.mirror)
        marked = marked_captions(given.captions, len(data.examples), what)
        dials = [gammas(one, [file.role for file in self.chosen]) for one in marked]
        found = self._phrases(marked)
        return Phrased(self._encoded(data, marked, dials), found, tuple(dials))

    def _phrases(self, marked: Sequence[MarkedPrompt]) -> tuple[PhraseEmbeddings, ...]:
        once = {one.prompt: phrases(self.source.clip, one) for one in dict.fromkeys(marked)}
        return tuple(once[one.prompt] for one in marked)

    def _encoded(
        self, data: Dataset, marked: Sequence[MarkedPrompt], dials: Sequence[tuple[float, ...]]
    ) -> Dataset:
        if not any(file.text_encoder for file in self.files):
            return data
        examples = [
            replace(example, condition=self._encoder(gamma).condition(one.clean))
            for example, one, gamma in zip(data.examples, marked, dials, strict=True)
        ]
        return replace(data, examples=tuple(examples))

    def _encoder(self, gamma: tuple[float, ...]) -> ExampleEncoder:
        if gamma not in self.encoders:
            clip = self.source.clip
            for chosen, file, dial in zip(self.chosen, self.files, gamma, strict=True):
                clip = patch_text_encoder(clip, file, chosen.strength * dial)
            self.encoders[gamma] = ExampleEncoder(self.source.model, clip, self.source.vae)
        return self.encoders[gamma]
