"""The prompts of a soak: shipped workflows in few steps, with settings drawn from short lists.

The lists are short so that prompts come again: equal prompts must give equal pictures.
"""

import os
import random
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from craft_lora_pack.client.address import Inputs
from craft_lora_pack.client.widgets import choices_of
from craft_lora_pack.client.workflow import read_workflow, to_prompt

from ..paths import ROOT

STEPS = 3
COUNTS = {"steps", "mode.steps", "method.steps"}
DEMO = "demo_small_world"
# How often a workflow is drawn. Trainings are among them, and files that prompts write.
WORKFLOWS = {
    DEMO: 10,
    "role_guidance_small_world": 2,
    "hires_second_pass_small_world": 2,
    "semantic_extension_small_world": 2,
    "fuse_to_file_small_world": 1,
    "training_small_world": 1,
}
SEEDS, STRENGTHS, WEIGHTS = (1, 2, 3), ("0", "0.7", "1"), ("1", "3", "6")
MODELS = ROOT / "small_world" / "models"
CHECKPOINT, LORA = "craft_small_world.safetensors", "craft_small_world_{}.safetensors"
COPY, CHANGING = "soak_copy.safetensors", "soak_changing.safetensors"
ROLES = ("content", "style")


@dataclass(frozen=True)
class SoakJob:
    """One prompt: what it is, by which equal ones are known, and the prompt itself."""

    key: tuple[str, ...]
    prompt: dict[str, dict[str, Any]]


class Prompts:
    """Draws jobs for a server with these nodes, whose base directory is `base`."""

    def __init__(self, object_info: dict[str, Any], base: Path, seed: int):
        self.base, self._info, self._rng = base, object_info, random.Random(seed)
        checkpoints = base / "models" / "checkpoints"
        checkpoints.mkdir(parents=True, exist_ok=True)
        shutil.copy(MODELS / "checkpoints" / CHECKPOINT, checkpoints / COPY)
        self.replace("content")
        self._prompts = {name: self._few_steps(name) for name in WORKFLOWS}
        methods = object_info["CRAFTRouter"]["input"]["required"]["method"]
        self._methods = [str(key) for key in choices_of(methods)]

    def reference(self) -> SoakJob:
        """The one prompt that is run again and again."""
        return SoakJob(("reference",), self._prompts[DEMO])

    def drawn(self) -> Iterator[SoakJob]:
        """Jobs without an end; a LoRA file is replaced under its name before some of them."""
        names, often = list(WORKFLOWS), list(WORKFLOWS.values())
        while True:
            name = self._rng.choices(names, often)[0]
            yield self._demo() if name == DEMO else SoakJob((name,), self._prompts[name])

    def replace(self, role: str) -> None:
        """Put the LoRA of a role under the name that prompts load, as a user does."""
        folder = self.base / "models" / "loras"
        folder.mkdir(parents=True, exist_ok=True)
        fresh = folder / f"{CHANGING}.new"
        shutil.copyfile(MODELS / "loras" / LORA.format(role), fresh)
        os.replace(fresh, folder / CHANGING)

    def _demo(self) -> SoakJob:
        """The demo with another method, strength, guidance weight, checkpoint, LoRA file."""
        draw = self._rng.choice
        settings = {
            "CRAFTRouter.method": draw(self._methods),
            "CRAFTRouter.content_strength": draw(STRENGTHS),
            "CRAFTACFGKSampler.cfg": draw(WEIGHTS),
            "CRAFTACFGKSampler.seed": str(draw(SEEDS)),
            "CheckpointLoaderSimple.ckpt_name": draw((CHECKPOINT, COPY)),
        }
        inside = "as shipped"
        if self._rng.random() < 0.3:
            inside = draw(ROLES)
            self.replace(inside)
            settings["CRAFTRouter.content_lora"] = CHANGING
        inputs = Inputs(self._prompts[DEMO], self._info)
        values = {inputs.find_in_node(name): text for name, text in settings.items()}
        return SoakJob((DEMO, *settings.values(), inside), inputs.with_values(values))

    def _few_steps(self, name: str) -> dict[str, dict[str, Any]]:
        workflow = read_workflow(ROOT / "workflows" / f"{name}.json")
        prompt = to_prompt(workflow, self._info)
        for node in prompt.values():
            for one in COUNTS & node["inputs"].keys():
                if not isinstance(node["inputs"][one], list):
                    node["inputs"][one] = STEPS
        return prompt
