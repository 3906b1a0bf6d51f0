"""The program of nursery.py: reads lines of JSON, and forks a process for each job."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
import traceback
from itertools import count
from pathlib import Path
from typing import Any

PARTS = Path(__file__).resolve().parents[1]
ROOT = PARTS.parents[2]


def train(
    world: Any, name: str, steps: int, seed: int = 0, notes: str = "", meets: str = ""
) -> None:
    """A training on one picture that goes on where an earlier one of its name was killed, and
    saves its state after each step.

    notes: a file for the report, behind a line for each step: its number and what was learned.
    meets: a folder in which it waits for another one, when both have found no state to go on from.
    """
    from craft_lora_pack.comfy_adapter.train import run
    from craft_lora_pack.comfy_adapter.train.train import Captioned, How, ModelParts
    from trainings import train_lora

    run.SAVE_SECONDS = -1.0
    if meets:
        begin_together(run.StateFile, Path(meets))
    knobs = {"rank": 2, "steps": steps, "batch_size": 1, "learning_rate": 1e-2, "warmup": 0,
             "seed": seed}  # fmt: skip
    image = torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(0))
    lines = []

    def note(training: Any) -> None:
        lines.append(f"{training.step} {digest(training.parameters)}\n")

    with torch.inference_mode():
        done = train_lora(
            ModelParts(world.model, world.clip, world.vae), Captioned([image], ["a cat"]), None,
            "content", "content: middle_block", knobs, How(name, True, "fp32"), note,
        )  # fmt: skip
    if notes:
        Path(notes).write_text("".join([*lines, done.report]))


def begin_alone(world: Any, name: str, steps: int, seed: int, saved: str) -> None:
    """A training that does not resume, saves its first step, makes the file `saved` and waits."""
    from craft_lora_pack.comfy_adapter.train import run
    from craft_lora_pack.comfy_adapter.train.train import Captioned, How, ModelParts
    from trainings import train_lora

    run.SAVE_SECONDS = -1.0
    knobs = {"rank": 2, "steps": steps, "batch_size": 1, "learning_rate": 1e-2, "warmup": 0,
             "seed": seed}  # fmt: skip
    image = torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(0))

    def wait(training: Any) -> None:
        if training.step == 2:  # the first is saved
            Path(saved).touch()
            time.sleep(600)

    with torch.inference_mode():
        train_lora(
            ModelParts(world.model, world.clip, world.vae), Captioned([image], ["a cat"]), None,
            "content", "content: middle_block", knobs, How(name, False, "fp32"), wait,
        )  # fmt: skip


def begin_together(states: Any, folder: Path) -> None:
    """Two processes wait for each other, once each has set an earlier state aside."""
    alone = states.set_aside

    def set_aside(state: Any) -> None:
        alone(state)
        (folder / str(os.getpid())).touch()
        while len(list(folder.iterdir())) < 2:
            time.sleep(0.01)

    states.set_aside = set_aside


def digest(tensors: Any) -> str:
    """Of tensors by name, all their bytes."""
    found = hashlib.sha256()
    for name in sorted(tensors):
        found.update(name.encode() + tensors[name].detach().numpy().tobytes())
    return found.hexdigest()


def save(world: Any, folder: str) -> None:
    """Every kind of file again and again, each version full of its own number."""
    from craft_lora_pack.craft_core.encoder.file import write_encoder
    from craft_lora_pack.craft_core.encoder.network import Concept, ExpertEncoder
    from craft_lora_pack.craft_core.projection import Basis, LayerBasis, write_basis
    from craft_lora_pack.craft_core.tensor_file import save as save_tensors

    place, one = Path(folder), torch.eye(64)[:, :8]
    for version in count(1):
        full = {"a": torch.full((300, 300), float(version)), "b": torch.full((7,), float(version))}
        metadata = {"version": str(version)}
        save_tensors(place / "tensors.safetensors", full, metadata, "A file")
        save_tensors(place / f"{version}.safetensors", full, metadata, "A file", exclusive=True)
        basis = Basis({f"layer_{version}": LayerBasis(one, one)}, "output")
        write_basis(place / "basis.safetensors", basis, exclusive=False)
        layers = {"content": [f"layer_{version}"], "style": []}
        encoder = ExpertEncoder(layers, 8, [Concept(("a" * 64,), ())])
        write_encoder(place / "encoder.safetensors", encoder, exclusive=False)


def main(base: Path) -> None:
    global torch
    sys.path.append(str(ROOT))
    import launcher  # noqa: F401 (makes craft_lora_pack)
    from launcher.run.inside_host import enter_host, load_pack

    enter_host(Path(os.environ["COMFYUI_PATH"]), base)
    sys.path.append(str(PARTS))
    import torch

    torch.set_num_threads(1)
    load_pack()
    import small_world_models

    with torch.inference_mode():
        world = small_world_models.load()
    answers = os.fdopen(os.dup(1), "w")  # what the host prints goes elsewhere
    os.dup2(2, 1)
    print(0, file=answers, flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        if "wait" in asked:
            answer = os.waitstatus_to_exitcode(os.waitpid(asked["wait"], 0)[1])
        else:
            answer = os.fork()
            if answer == 0:
                begin(asked, world)
        print(answer, file=answers, flush=True)


def begin(asked: dict[str, Any], world: Any) -> None:
    """The job, in a process of its own, which ends here."""
    status = 1
    try:
        {"train": train, "save": save, "begin": begin_alone}[asked["job"]](world, **asked["given"])
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
