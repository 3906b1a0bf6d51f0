"""LoRAs of held-out objects and styles by the pack's own recipe, and pictures made with them.

Import it only where `launcher.run.inside_host` has entered the host and loaded the pack, and work
with it in `torch.inference_mode`, as the host runs nodes.
"""

import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import comfy.sample
import comfy.samplers
import comfy.sd
import folder_paths
import numpy as np
import torch
from craft_lora_pack.comfy_adapter.guide.acfg import ChosenRule, acfg_guider
from craft_lora_pack.comfy_adapter.model.lora_files import BranchFile
from craft_lora_pack.comfy_adapter.train.run import save_place
from craft_lora_pack.comfy_adapter.train.start import start_training
from craft_lora_pack.comfy_adapter.train.train import (
    Captioned,
    FilledSlots,
    How,
    ModelParts,
    identity,
)
from craft_lora_pack.comfy_adapter.use.router import RouterRequest, route
from craft_lora_pack.craft_core.training import TRAINING
from safetensors import safe_open

from ...register import register
from .worlds import SMALL_WORLD, World

# The recipe of the shipped LoRAs, see "The basis, the LoRAs and the encoder" in the README.
RECIPE = {"rank": 8, "batch_size": 6, "learning_rate": 0.002, "shift": 3}
STEPS = {"content": 200, "style": 100}
SHOTS = SMALL_WORLD.shots  # pictures a LoRA learns from, where not said
LAYER_SETS = "all"
SAMPLING_STEPS, CFG = 20, 3.0


def captioned(role: str, name: str, count: int, world: World = SMALL_WORLD) -> Captioned:
    """The pictures that a LoRA of a world learns from, with their captions."""
    learned = world.shown(role, name, count)
    pictures = [world.upright(content, style) for content, style, _ in learned]
    images = [torch.from_numpy(one.astype(np.float32) / 255)[None] for one in pictures]
    return Captioned(images, [caption for *_, caption in learned])


def _is_kept(file: Path, settings: Mapping[str, Any]) -> bool:
    """Whether a file is there that was trained to its end, with these of its settings."""
    if not file.is_file():
        return False
    with safe_open(str(file), "pt") as opened:
        told = opened.metadata() or {}
    own = json.loads(told.get("training", "{}"))
    own |= {"steps": told.get("steps_asked"), "learning_rate": own.get("rate")}
    return told.get("steps_done") == own["steps"] and all(
        _alike(settings[name], own[name]) for name in settings.keys() & own.keys()
    )


def _alike(setting: Any, written: str) -> bool:
    """A file says 0 for 0.0."""
    said = f"{setting:g}" if isinstance(setting, float) else str(setting)
    return said == str(written) or str(setting) == str(written)


def own_noise(*key: object, count: int) -> torch.Tensor:
    """(count, 3, 64, 64): the noise that belongs to a key, such as a pair; whatever the method.

    One noise for all pairs would let the luck of that noise decide between methods.
    """
    latent = torch.zeros(1, 3, 64, 64)
    seeds = (zlib.crc32("|".join(map(str, (*key, k))).encode()) for k in range(count))
    return torch.cat([comfy.sample.prepare_noise(latent, seed) for seed in seeds])


class Studio:
    """A checkpoint, the LoRAs trained on it (kept in the host's output folder) and pictures."""

    def __init__(self, checkpoint: Path, world: World = SMALL_WORLD):
        register()
        self.world = world
        self.model, self.clip, self.vae = comfy.sd.load_checkpoint_guess_config(str(checkpoint))[:3]
        self.negative = self._encoded("")

    def lora(
        self,
        role: str,
        name: str,
        shots: int,
        divider: int = 1,
        *,
        layer_sets: str = LAYER_SETS,
        limited: Any = None,
        seed: int = 0,
    ) -> str:
        """The file of a LoRA as the host lists it; trained only if no earlier run has made it.

        divider: of the recipe's steps, for a rehearsal. limited: a MODEL with a rank-limited
        backbone, to learn on in place of the checkpoint's. seed: of everything random in the
        training.
        """
        place = "" if layer_sets == LAYER_SETS else f"_{layer_sets}"
        place += "" if limited is None else "_limited"
        place += f"_seed_{seed}" if seed else ""
        choices = {"role": role, "layer_sets": layer_sets}
        filled = FilledSlots({"images": captioned(role, name, shots, self.world)}, (), choices)
        knobs = {**RECIPE, "steps": max(1, STEPS[role] // divider), "seed": seed}
        called = f"{role}_{name}_{shots}{place}"
        return self.trained(called, TRAINING["lora"], filled, knobs, divider, limited)

    def trained(
        self,
        called: str,
        method: Any,
        filled: FilledSlots,
        knobs: Mapping[str, Any],
        divider: int = 1,
        model: Any = None,
    ) -> str:
        """The file that a training makes, as the host lists it; trained only if no earlier run has
        made it, whole and of the same model and settings. model: None for the checkpoint's."""
        pace = "" if divider == 1 else f"_steps_{divider}th"
        prefix, folder = f"small_world/{called}{pace}", method.traits.slots.folder
        first = save_place(prefix, folder).path
        first = first.with_name(f"{first.stem[:-7]}_00001_.safetensors")
        model = model or self.model
        if _is_kept(first, {**knobs, "base_model": identity(model)}):
            root = Path(folder_paths.get_output_directory()) / folder
            return str(first.relative_to(root))
        first.unlink(missing_ok=True)
        parts = ModelParts(model, self.clip, self.vae)
        how = How(prefix, checkpointing=False)
        return start_training(parts, method, filled, knobs, how, lambda _: None).name

    def pictures(
        self,
        files: Sequence[tuple[str, str, float]],
        prompt: str,
        noise: torch.Tensor,
        *,
        method: str | dict[str, Any] = "direct",
        layer_sets: str = LAYER_SETS,
        asymmetric: bool = False,
        schedule: Any = None,
        cfg: float = CFG,
        model: Any = None,
        encoder: str = "",
        weight: float | None = None,
    ) -> torch.Tensor:
        """(B, 3, 64, 64) in [-1, 1] from noise (B, 3, 64, 64), through Router and ACFG.

        files: LoRA file, role and strength. method: a key, or the Router's whole menu value.
        model: None for the checkpoint's. encoder: an expert encoder's file. weight: of both roles,
        under role guidance.
        """
        branches = tuple(BranchFile(*one) for one in files)
        menu = {"method": method} if isinstance(method, str) else method
        request = RouterRequest(
            prompt, branches, layer_sets, menu, schedule, expert_encoder=encoder
        )
        routed = route(model or self.model, self.clip, request)
        rule = None if weight is None else ChosenRule("role", {"weight": weight})
        return self.sampled(routed.model, routed.conditioning, noise, asymmetric, cfg, rule)

    def sampled(
        self, model: Any, positive: Any, noise: torch.Tensor, asymmetric: bool, cfg: float,
        rule: ChosenRule | None = None,
    ) -> torch.Tensor:  # fmt: skip
        """(B, 3, 64, 64) in [-1, 1] of a MODEL that is routed already. rule: instead of
        asymmetric."""
        guider = acfg_guider(model, positive, self.negative, cfg, asymmetric, rule)
        sampling = self.model.get_model_object("model_sampling")
        sigmas = comfy.samplers.calculate_sigmas(sampling, "normal", SAMPLING_STEPS)
        euler = comfy.samplers.sampler_object("euler")
        latent = torch.zeros_like(noise)  # its latents are pictures
        sampled = guider.sample(noise, latent, euler, sigmas, seed=1, disable_pbar=True)
        return self.vae.decode(sampled).movedim(-1, 1) * 2 - 1

    def _encoded(self, text: str) -> Any:
        return self.clip.encode_from_tokens_scheduled(self.clip.tokenize(text))
