"""The precision of a training: the device decides, unless the user chooses."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections import Counter
from types import SimpleNamespace

import comfy.model_management
import comfy.utils
import pytest
import tiny
import torch
from craft_lora_pack.comfy_adapter.train import precision
from craft_lora_pack.comfy_adapter.train.denoiser import open_denoiser
from craft_lora_pack.comfy_adapter.train.precision import AUTO, PRECISIONS, decide
from craft_lora_pack.comfy_adapter.train.run import PageWatch, save_place
from craft_lora_pack.comfy_adapter.train.train import Captioned, How, ModelParts
from craft_lora_pack.craft_core.training import TRAINING
from craft_lora_pack.craft_core.training.loop import state_metadata
from craft_lora_pack.craft_core.training.recipes.lora import branch_edit
from craft_lora_pack.craft_core.types import Factors
from craft_lora_pack.nodes.learn_merge import LearnMerge
from craft_lora_pack.nodes.training import TRAINING_NODES
from safetensors import safe_open
from small_world_models import load
from torch.utils._python_dispatch import TorchDispatchMode
from trainings import train_lora

from launcher.paths import ROOT

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
HALF = (torch.float16, torch.bfloat16)
AVX2 = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}  # of torch's libraries
EMULATED = "this CPU has no units for bf16"


@pytest.fixture(params=[True, False], ids=["units", "no units"])
def has_units(request, monkeypatch) -> bool:
    """Whether the CPU and the GPU compute bf16 themselves."""
    monkeypatch.setattr(
        precision, "_lacking", lambda device: "" if request.param else "it is emulated"
    )
    return request.param


@pytest.mark.parametrize("device", [CPU, CUDA], ids=str)
def test_auto_is_never_emulated_and_says_why(has_units, device):
    chosen = decide(AUTO, device)
    assert chosen.name == ("bf16" if has_units else "fp32")
    assert ("has units" if has_units else "emulated") in chosen.why and not chosen.warning


@pytest.mark.parametrize("setting", [AUTO, *PRECISIONS])
def test_a_device_that_torch_has_no_module_for_trains_in_fp32(setting):
    """DirectML's: torch.autocast refuses it."""
    chosen = decide(setting, SimpleNamespace(type="no_such_device"), begun="bf16")
    assert chosen.name == "fp32" and "torch has no mixed precision" in chosen.why
    assert bool(chosen.warning) == (setting == "bf16")


@pytest.mark.parametrize("setting", PRECISIONS)
def test_what_the_user_sets_stands_and_an_emulated_one_is_warned_of(has_units, setting):
    for begun in ("", *PRECISIONS):
        chosen = decide(setting, CPU, begun)
        assert chosen.name == setting and "as set" in chosen.why
        assert ("began in" in chosen.why) == (begun not in ("", setting))
        assert bool(chosen.warning) == (setting == "bf16" and not has_units)
        if chosen.warning:
            assert "emulated" in chosen.warning and "precision to auto" in chosen.warning
            assert "emulated" in chosen.why


@pytest.mark.parametrize("begun", PRECISIONS)
def test_auto_goes_on_as_a_training_began_unless_that_is_emulated_here(has_units, begun):
    chosen = decide(AUTO, CPU, begun)
    if begun == "bf16" and not has_units:
        assert chosen.name == "fp32" and "it began in bf16" in chosen.why
    else:
        assert chosen.name == begun and "resumes" in chosen.why


@pytest.mark.parametrize("fast", [True, False])
def test_of_any_device_but_the_cpu_the_host_is_asked(monkeypatch, fast):
    asked = []
    monkeypatch.setattr(
        comfy.model_management, "should_use_bf16", lambda device: asked.append(device) or fast
    )
    assert decide(AUTO, CUDA).name == ("bf16" if fast else "fp32")
    assert bool(decide("bf16", CUDA).warning) != fast and set(asked) == {CUDA}


def test_a_host_told_to_compute_in_fp32_trains_in_it(monkeypatch):
    monkeypatch.setattr(comfy.model_management, "FORCE_FP32", True)
    for device in (CPU, CUDA):
        assert decide(AUTO, device).name == "fp32" and "--force-fp32" in decide(AUTO, device).why


class Products(TorchDispatchMode):
    """Counts matrix products and convolutions by the type of what they multiply."""

    def __init__(self) -> None:
        super().__init__()
        self.types: Counter[torch.dtype] = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        if any(word in name for word in ("mm", "conv", "linear", "attention")):
            found = {one.dtype for one in args if isinstance(one, torch.Tensor)}
            self.types.update(found & {*HALF, torch.float32})
        return function(*args, **(kwargs or {}))


def products_of_a_step(model, setting: str) -> set[torch.dtype]:
    with open_denoiser(model, None, setting) as denoiser, Products() as products:
        path = "input_blocks.1.1.proj_in"
        shape = denoiser.layers[path]
        up = torch.zeros(shape[0], 1, requires_grad=True)
        with denoiser.edited({path: branch_edit(Factors(torch.ones(1, *shape[1:]), up))}):
            x = torch.ones(1, 4, 8, 8)
            denoiser.denoise(x, torch.tensor([0.7]), [tiny.conditioning(1)]).sum().backward()
        assert up.grad is not None and bool(up.grad.isfinite().all())
    return set(products.types)


@pytest.mark.parametrize("stored", [torch.float32, *HALF], ids=str)
def test_fp32_multiplies_nothing_in_half_precision_whatever_the_weights_are_stored_in(stored):
    assert products_of_a_step(tiny.sd15(stored), "fp32") == {torch.float32}


def test_auto_on_this_cpu_multiplies_in_half_precision_only_where_it_has_units():
    emulated = EMULATED in decide(AUTO, CPU).why
    assert emulated or torch.ops.mkldnn._is_mkldnn_bf16_supported()
    assert (torch.bfloat16 in products_of_a_step(tiny.sd15(), AUTO)) != emulated


def test_bf16_multiplies_in_bf16():
    assert torch.bfloat16 in products_of_a_step(tiny.sd15(), "bf16")


@pytest.fixture(scope="module")
def on_avx2(tmp_path_factory):
    """What the command line says on a CPU without bf16 units, by --precision. One small step:
    in emulated bf16 it takes the better part of a second."""
    folder = tmp_path_factory.mktemp("avx2")
    command = [
        "train", "lora", "--checkpoint", "craft_small_world.safetensors", "--cpu",
        "--custom-node", str(ROOT / "small_world"), "--role", "content", "--layer-sets", "b-lora",
        "--images", str(ROOT / "small_world" / "references" / "content" / "cat.png"),
        "--size", "32x32", "--rank", "2", "--steps", "1", "--batch-size", "1", "--warmup", "0",
        "--out", str(folder),
    ]  # fmt: skip
    # bf16 first: the log keeps writing to the stderr of the time when it was set up
    flags = {name: ["--precision", name] for name in ("bf16", "fp32", AUTO)} | {"default": []}
    plan = [
        {"arguments": [*command, "--name", name, *own], "interrupt": 0}
        for name, own in flags.items()
    ]
    (folder / "plan.json").write_text(json.dumps(plan), "utf-8")
    script = ROOT / "tests" / "host" / "parts" / "command_line.py"
    ran = subprocess.run(
        [sys.executable, script, folder / "plan.json", folder / "answers.json"],
        capture_output=True, text=True, cwd=ROOT, check=False, env={**os.environ, **AVX2},
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    answers = json.loads((folder / "answers.json").read_text("utf-8"))
    return dict(zip(flags, answers, strict=True))


@pytest.mark.parametrize("given", ["default", AUTO])
def test_where_bf16_is_emulated_a_training_runs_in_fp32_and_says_so(on_avx2, given):
    assert on_avx2[given]["status"] == 0, on_avx2[given]["err"]
    assert f"Precision: fp32, {EMULATED}" in on_avx2[given]["out"]


def test_where_bf16_is_emulated_one_who_sets_it_is_warned_before_it_begins(on_avx2):
    assert on_avx2["bf16"]["status"] == 0, on_avx2["bf16"]["err"]
    assert f"Training in bf16, as set, but {EMULATED}" in on_avx2["bf16"]["err"]
    assert f"Precision: bf16, as set, but {EMULATED}" in on_avx2["bf16"]["out"]
    assert "Precision: fp32, as set" in on_avx2["fp32"]["out"]


@pytest.fixture(scope="module")
def world():
    with torch.inference_mode():
        return load()


def stop_after_the_first(training):
    raise comfy.model_management.InterruptProcessingException


def learn(world, name, setting, resume=False, watch=lambda training: None, steps=3):
    knobs = {"rank": 2, "steps": steps, "batch_size": 1, "warmup": 0}
    images = [torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(0))]
    with torch.inference_mode():
        return train_lora(
            ModelParts(world.model, world.clip, world.vae), Captioned(images, ["a sks cat"]), None,
            "content", "b-lora", knobs, How(name, resume, setting), watch,
        )  # fmt: skip


def test_a_stopped_training_goes_on_under_auto_in_what_it_began_in_to_the_same_bytes(world):
    whole = learn(world, "precision/whole", "fp32")
    place = save_place("precision/stopped", "loras", "content")
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        learn(world, "precision/stopped", "fp32", watch=stop_after_the_first)
    assert state_metadata(place.state)["precision"] == "fp32"
    resumed = learn(world, "precision/stopped", AUTO, resume=True)
    assert resumed.path.read_bytes() == whole.path.read_bytes()
    assert "Precision: fp32, as the training that it resumes" in resumed.report
    with safe_open(resumed.path, framework="pt") as file:
        assert file.metadata()["precision"] == "fp32"


@pytest.mark.parametrize("stored", ["", "fp16"])
def test_a_state_that_does_not_tell_its_precision_goes_on_as_the_device_decides(world, stored):
    name = f"precision/older{stored}"
    learn(world, name, AUTO, steps=1)
    state = save_place(name, "loras", "content").state
    tensors, metadata = comfy.utils.load_torch_file(str(state), return_metadata=True)
    metadata.pop("precision")
    comfy.utils.save_torch_file(
        {name: value.contiguous() for name, value in tensors.items()}, str(state),
        {**metadata, **({"precision": stored} if stored else {})},
    )  # fmt: skip
    resumed = learn(world, name, AUTO, resume=True, steps=2)
    decided = decide(AUTO, CPU)
    assert f"Precision: {decided.name}, {decided.why}" in resumed.report
    assert "1 of them resumed" in resumed.report


def test_a_warning_stays_in_the_page_above_the_steps_and_is_logged_once(world, caplog):
    said: list[str] = []
    shown = PageWatch(2, said.append)
    with caplog.at_level(logging.WARNING, "craft"):
        shown.warn("slow")
        learn(world, "precision/watched", AUTO, watch=shown, steps=2)
    assert said[0] == "slow" and said[-1].startswith("slow\nstep 2 of 2")
    assert [one.message for one in caplog.records if one.levelname == "WARNING"] == ["slow"]


@pytest.mark.parametrize("node", [*TRAINING_NODES.values(), LearnMerge])
def test_every_training_node_takes_what_older_workflows_hold_and_new_ones_leave_it(node):
    (menu,) = [one for one in node.define_schema().inputs if one.id == "precision"]
    assert {"bf16", "fp32"} < set(menu.options) and menu.default == AUTO


def test_the_node_warns_of_an_emulated_precision(world, monkeypatch, caplog):
    monkeypatch.setattr(precision, "_lacking", lambda device: "it is emulated")
    knobs = TRAINING["lora"].knobs({"rank": 2, "steps": 1, "batch_size": 1, "warmup": 0})
    settings = {
        **knobs, "role": "content", "layer_sets": {"layer_sets": "b-lora"},
        "save_name": "precision/node", "precision": "bf16", "gradient_checkpointing": True,
        "resume": False,
    }  # fmt: skip
    lists = {name: [value] for name, value in settings.items()}
    with torch.inference_mode(), caplog.at_level(logging.WARNING, "craft"):
        *_, report = TRAINING_NODES["lora"].execute(
            [world.model], [world.clip], [world.vae], [torch.zeros(1, 32, 32, 3)], ["a cat"],
            **lists,
        ).result  # fmt: skip
    assert "Training in bf16, as set, but it is emulated" in caplog.text
    assert "Precision: bf16, as set, but it is emulated" in report
