"""Memory runs out at any operation: the MODEL is as it was, and the same again gives the same."""

from __future__ import annotations

import gc
import random
import shutil
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.utils
import folder_paths
import nodes
import pytest
import small_world_models as small
import torch
from comfy.ldm.modules import sub_quadratic_attention
from craft_lora_pack.comfy_adapter.model import given, in_use
from craft_lora_pack.comfy_adapter.train import run
from craft_lora_pack.comfy_adapter.train.run import save_place
from craft_lora_pack.comfy_adapter.train.train import Captioned, How, ModelParts
from craft_lora_pack.craft_core import tensor_file
from craft_lora_pack.nodes.acfg import ACFGKSampler
from craft_lora_pack.nodes.router import Router
from craft_lora_pack.nodes.schedule import TimestepSchedule
from safetensors.torch import load_file
from torch.utils._python_dispatch import TorchDispatchMode
from trainings import train_lora

OUT_OF_MEMORY = torch.OutOfMemoryError
FAULTS = 8  # of a method, spread over its run
FEWER = 4  # of a training
PROMPT = "<c>a sks animal</c> in <s>zwx style</s>"
SCHEDULE = TimestepSchedule.execute({"shape": "cosine"}, 0.1, 0.0, "steps").result[0]
SETTINGS = {
    "prompt": PROMPT, "content_lora": small.CONTENT, "style_lora": small.STYLE,
    "content_strength": 0.9, "style_strength": 0.6, "layer_sets": {"layer_sets": "all"},
    "schedule": SCHEDULE,
}  # fmt: skip
METHODS = {"craft": {"method": "craft"}, "k_lora": {"method": "k_lora", "pattern": "s*"}}


class Operations(TorchDispatchMode):
    """Counts what torch computes, and once, at the given operation, has no memory left.

    Passed over for the next operation are those in which others hide what has failed: torch while
    a file is read, which is mapped and takes no memory of the device, or copied into a network, and
    the host's attention, which goes on in smaller parts.
    """

    def __init__(self, fails_at: int | None = None) -> None:
        super().__init__()
        self.count, self.fails_at, self.where = 0, fails_at, "nowhere"

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        due = self.fails_at is not None and self.count >= self.fails_at
        self.count += 1
        if due and not is_hidden():
            self.fails_at = None
            self.where = "".join(traceback.format_stack(limit=8))
            raise OUT_OF_MEMORY("Allocation on device")
        return func(*args, **(kwargs or {}))


def is_hidden() -> bool:
    codes = [frame.f_code for frame, _ in traceback.walk_stack(None)]
    hiding = {tensor_file.__file__, sub_quadratic_attention.__file__}
    reads = {comfy.utils.load_torch_file.__code__, torch.nn.Module.load_state_dict.__code__}
    return any(code.co_filename in hiding or code in reads for code in codes)


@pytest.fixture(scope="module")
def world():
    with torch.inference_mode():
        return small.load()


@pytest.fixture
def from_disk(tmp_path, monkeypatch) -> Callable[[], None]:
    """Has the next run read, load and measure everything anew, as in a server just started."""
    monkeypatch.setattr(folder_paths, "user_directory", str(tmp_path))

    def forget() -> None:
        comfy.model_management.unload_all_models()
        gc.collect()
        assert not in_use._patchers, "a failed run keeps the modules of its files"
        given._known.clear()
        shutil.rmtree(tmp_path, ignore_errors=True)

    forget()
    yield forget
    given._known.clear()


def sampled(world, method: dict[str, Any], within: Any = None) -> torch.Tensor:
    with torch.inference_mode(), within or nullcontext():
        model, positive, *_ = Router.execute(
            world.model, world.clip, method=method, **SETTINGS
        ).result
        return latents(world, model, positive)


def latents(world, model, positive) -> torch.Tensor:
    start = nodes.EmptyLatentImage().generate(32, 32)[0]
    made = ACFGKSampler.execute(
        model, 1, 2, 3.0, "euler", "normal", positive, world.encode(""), start, 1.0, True
    )
    return made.result[0]["samples"].clone()


def networks(world) -> Iterator[torch.nn.Module]:
    yield from (world.model.model, world.clip.cond_stage_model)


def weights(world) -> list[torch.Tensor]:
    return [one.detach().clone() for network in networks(world) for one in network.parameters()]


def left_behind(world) -> list[str]:
    """Whatever a run may have put on the MODEL and not taken off."""
    found = [
        f"hook on {name}"
        for network in networks(world)
        for name, module in network.named_modules()
        if module._forward_hooks or module._forward_pre_hooks or module._backward_hooks
    ]
    options = world.model.model_options["transformer_options"]
    found += [f"option {name}" for name in options if name.startswith("craft")]
    held = (world.model.wrappers, world.model.additional_models, world.model.attachments)
    found += [str(one) for one in held if any(one.values() if one is held[0] else one)]
    return found


def is_as_before(world, before: list[torch.Tensor]) -> None:
    now = [one for network in networks(world) for one in network.parameters()]
    assert all(torch.equal(one, other) for one, other in zip(before, now, strict=True))
    assert left_behind(world) == []


def spread(count: int, faults: int, seed: int) -> list[int]:
    """One drawn operation out of each of so many equal stretches."""
    draw = random.Random(seed)
    edges = [count * place // faults for place in range(faults + 1)]
    return [draw.randrange(*pair) for pair in zip(edges, edges[1:], strict=False)]


@contextmanager
def memory_runs_out(failing: Operations) -> Iterator[None]:
    """It is the host's own error, of which the host then unloads all models."""
    try:
        yield
    except OUT_OF_MEMORY:
        pass
    else:
        pytest.fail(f"what failed is not seen: {failing.where}")
    comfy.model_management.unload_all_models()


@pytest.mark.parametrize("method", METHODS)
def test_memory_that_runs_out_in_a_run_changes_nothing_of_the_next(world, from_disk, method):
    chosen, before = METHODS[method], weights(world)
    expected = sampled(world, chosen)
    from_disk()
    counted = Operations()
    assert torch.equal(sampled(world, chosen, counted), expected) and counted.count > 1000
    for place in spread(counted.count, FAULTS, seed=len(method)):
        from_disk()
        failing = Operations(place)
        with memory_runs_out(failing):
            sampled(world, chosen, failing)
        is_as_before(world, before)
        assert torch.equal(sampled(world, chosen), expected), place
        is_as_before(world, before)


KNOBS = {"rank": 2, "steps": 3, "batch_size": 1, "learning_rate": 1e-2, "warmup": 0}


def learned(world, name: str, within: Any = None, resume: bool = False) -> Path:
    source = ModelParts(world.model, world.clip, world.vae)
    image = torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode(), within or nullcontext():
        return train_lora(
            source, Captioned([image], ["a cat"]), None, "content", "content: middle_block",
            KNOBS, How(name, resume, "fp32"), lambda training: None,
        ).path  # fmt: skip


def test_memory_that_runs_out_in_a_training_costs_no_file_and_no_second_try(world, monkeypatch):
    """A state that finds no memory is left out, and the training goes on. The second try comes
    while the error is still held, as by whoever reports it."""
    monkeypatch.setattr(run, "SAVE_SECONDS", -1.0)
    counted, before = Operations(), weights(world)
    expected = load_file(learned(world, "memory/whole", counted))
    stopped = 0
    for place in spread(counted.count, FEWER, seed=3):
        name = f"memory/at_{place}"
        try:
            path = learned(world, name, Operations(place))
        except OUT_OF_MEMORY:
            stopped += 1
            comfy.model_management.unload_all_models()
            state = save_place(name, "loras", "content").state
            assert not state.exists() or load_file(state)
            path = learned(world, name, resume=True)
        is_as_before(world, before)
        made = load_file(path)
        assert made.keys() == expected.keys()
        assert all(torch.equal(made[key], expected[key]) for key in expected), place
        assert not list(path.parent.glob(".*.tmp"))
    assert stopped > FEWER // 2
