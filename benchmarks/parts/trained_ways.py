"""Ways of `methods.py` that train something of their own: learned merges, B4M, joint training, and
CRAFT-LoRA's pipeline step by step.

Whatever is trained is kept in the folder of the LoRAs and used again. What a single object or style
needs is made before what a pair needs, so that two processes never train the same at once.

- zip_lora, duo_lora: the merge is learned from the two shipped-recipe LoRAs and their pictures,
  with the method's own settings; or, of VARIANTS, with one of the method's parts left out.
- b4m: a half each by the shipped recipe's steps, with partners, then joined with the method's own
  settings.
- joint: both learned in one training, each on the layers of its role, as long as a content LoRA.
- disjoint: LoRAs as shipped, but each learned on the layers of its role alone.
- limited: the same, learned and used on the rank-limited backbone (the shipped basis).
- craft: the same with an expert encoder learned for the pair. With Way.floors, which adds the
  schedule, and ACFG it is CRAFT-LoRA whole.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from small_world.world.objects import OBJECTS

MERGES = ("zip_lora", "duo_lora")
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "duo_lora_ranks": ("duo_lora", {"layer_prior_weight": 0.0, "cycle_weight": 0.0,
                                    "initialisation": "ones"}),
    "duo_lora_start": ("duo_lora", {"layer_prior_weight": 0.0, "cycle_weight": 0.0}),
    "duo_lora_prior": ("duo_lora", {"cycle_weight": 0.0}),
    "duo_lora_cycles": ("duo_lora", {"layer_prior_weight": 0.0}),
}  # the merge, and its settings  # fmt: skip
KINDS = (*MERGES, *VARIANTS, "b4m", "joint", "disjoint", "limited", "craft")
OWN_LAYERS = "duolora-prior"  # the layer sets where each role has its own
HALF_RANK = 16  # of a B4M half, whose frozen part takes half
# The shipped encoder's recipe, see small_world/README.md.
ENCODER = {"steps": 200, "batch_size": 2, "learning_rate": 0.004, "neutral_weight": 0.002,
           "shift": 3}  # fmt: skip


@dataclass(frozen=True)
class Need:
    """Something trained for one object or style. kind: of the way that needs it."""

    kind: str
    role: str
    name: str


@dataclass(frozen=True)
class Made:
    """What a pair is drawn with. files: LoRA file and role. model: None for the checkpoint's."""

    files: tuple[tuple[str, str], ...]
    model: Any = None
    encoder: str = ""


def needs(kind: str, content: str, style: str) -> list[Need]:
    """What must have been trained before the pair's own training, beside the shipped-recipe
    LoRAs."""
    shared = {"b4m": "b4m", "disjoint": "disjoint", "limited": "limited", "craft": "limited"}
    if kind not in shared:
        return []
    return [Need(shared[kind], "content", content), Need(shared[kind], "style", style)]


class Trainer:
    """Trains what a way needs, with the host's models of a Studio."""

    def __init__(self, studio: Any, loras: Any, basis: Path, divider: int) -> None:
        """loras: the module `small_world.train.measuring.loras`. basis: its file. divider: of
        every training's steps, for a rehearsal."""
        self.studio, self.parts, self.basis, self.divider = studio, loras, basis, divider
        self.world, self.shots = studio.world, studio.world.shots
        self._limited: Any = None

    @property
    def limited(self) -> Any:
        """The MODEL without the subspaces of the basis; made once."""
        from craft_lora_pack.comfy_adapter.model.basis import apply_basis
        from craft_lora_pack.craft_core.projection import read_basis

        if self._limited is None:
            self._limited = apply_basis(self.studio.model, read_basis(self.basis))
        return self._limited

    def made_for(self) -> dict[str, Any]:
        """Whatever the results of the trained ways depend on, beside what all do."""
        digest = hashlib.sha256(self.basis.read_bytes()).hexdigest()[:16]
        return {"basis": digest, "recipe": self.parts.RECIPE, "steps": self.parts.STEPS,
                "encoder": ENCODER, "rank of a half": HALF_RANK, "layers": OWN_LAYERS}  # fmt: skip

    def single(self, need: Need) -> str:
        """The file of what one object or style needs."""
        if need.kind == "b4m":
            return self._half(need.role, need.name)
        shots = self.shots[need.role]
        limited = self.limited if need.kind == "limited" else None
        return self.studio.lora(
            need.role, need.name, shots, self.divider, layer_sets=OWN_LAYERS, limited=limited
        )

    def made(self, kind: str, content: str, style: str) -> Made:
        """What a pair is drawn with, trained where it is not there yet."""
        pair = {"content": content, "style": style}
        if kind in (*MERGES, *VARIANTS, "b4m"):
            return Made(((self._merge(kind, pair), "content"),))
        if kind == "joint":
            file = self._joint(pair)
            return Made(tuple((file, role) for role in pair))
        files = tuple((self.single(one), one.role) for one in needs(kind, content, style))
        if kind == "disjoint":
            return Made(files)
        encoder = self._encoder(pair, files) if kind == "craft" else ""
        return Made(files, self.limited, encoder)

    def _half(self, role: str, name: str) -> str:
        from craft_lora_pack.craft_core.training import TRAINING

        shots, called = self.shots[role], self.world.called
        choices = {"role": role, "layer_sets": self.parts.LAYER_SETS}
        partners = [(c, s, f"a {c} in {called[s]} style") for c, s in self.world.others]
        pictures = {"images": self.parts.captioned(role, name, shots, self.world),
                    "partners": self._shown(partners)}  # fmt: skip
        recipe = {**self.parts.RECIPE, "rank": HALF_RANK}
        return self._trained(f"half_{role}_{name}_{shots}", TRAINING["b4m_half"], pictures, (),
                             choices, recipe, self.parts.STEPS[role])  # fmt: skip

    def _merge(self, kind: str, pair: Mapping[str, str]) -> str:
        from craft_lora_pack.comfy_adapter.model.lora_files import BranchFile
        from craft_lora_pack.craft_core.training import LEARNED

        merge, settings = VARIANTS.get(kind, (kind, {}))
        method, shots = LEARNED[merge], self.shots
        if kind == "b4m":
            files = [(self._half(*one), one[0]) for one in pair.items()]
        else:
            files = [(self.studio.lora(role, name, shots[role], self.divider), role)
                     for role, name in pair.items()]  # fmt: skip
        family = OBJECTS[pair["content"]].family
        choices = {"fused_prompt": f"a sks {family} in zwx style", "allow_unmatched": False}
        steps = {one.name: one.default for one in method.parameters}["steps"]
        return self._trained(f"{kind}_{pair['content']}_{pair['style']}", method,
                             self._both(pair), [BranchFile(*one, 1.0) for one in files],
                             choices, settings, steps)  # fmt: skip

    def _joint(self, pair: Mapping[str, str]) -> str:
        from craft_lora_pack.craft_core.training import TRAINING

        return self._trained(f"joint_{pair['content']}_{pair['style']}", TRAINING["joint"],
                             self._both(pair), (), {"layer_sets": OWN_LAYERS}, self.parts.RECIPE,
                             self.parts.STEPS["content"])  # fmt: skip

    def _encoder(self, pair: Mapping[str, str], files: tuple[tuple[str, str], ...]) -> str:
        from craft_lora_pack.comfy_adapter.model.lora_files import BranchFile
        from craft_lora_pack.craft_core.training import TRAINING

        family, called = OBJECTS[pair["content"]].family, self.world.called
        plain, shown = self.world.subject[0], self.world.shown_on[0]
        own = [(pair["content"], plain, f"<c>a sks {family}</c> in {called[plain]} style"),
               (shown, pair["style"], f"a {shown} in <s>zwx style</s>")]  # fmt: skip
        others = [(c, s, f"<c>a {c}</c> in <s>{called[s]} style</s>")
                  for c, s in self.world.others]  # fmt: skip
        pictures = {"images": self._shown(own), "other": self._shown(others)}
        choices = {"layer_sets": OWN_LAYERS, "allow_unmatched": False}
        return self._trained(f"encoder_{pair['content']}_{pair['style']}",
                             TRAINING["expert_encoder"], pictures,
                             [BranchFile(*one, 1.0) for one in files], choices, ENCODER,
                             ENCODER["steps"], self.limited)  # fmt: skip

    def _trained(self, called: str, method: Any, pictures: Mapping[str, Any], files: Any,
                 choices: Mapping[str, Any], knobs: Mapping[str, Any], steps: int,
                 model: Any = None) -> str:  # fmt: skip
        from craft_lora_pack.comfy_adapter.train.train import FilledSlots

        knobs = {**knobs, "steps": max(1, steps // self.divider)}
        filled = FilledSlots(pictures, files, choices)
        return self.studio.trained(called, method, filled, knobs, self.divider, model)

    def _both(self, pair: Mapping[str, str]) -> dict[str, Any]:
        """The pictures that both LoRAs learned."""
        return {role: self.parts.captioned(role, name, self.shots[role], self.world)
                for role, name in pair.items()}  # fmt: skip

    def _shown(self, shown: list[tuple[str, str, str]]) -> Any:
        from craft_lora_pack.comfy_adapter.train.train import Captioned

        pictures = [self.world.upright(content, style) for content, style, _ in shown]
        images = [torch.from_numpy(one.astype(np.float32) / 255)[None] for one in pictures]
        return Captioned(images, [caption for *_, caption in shown])
