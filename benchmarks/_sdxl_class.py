"""A random model of the host's SDXL class with two LoRAs, and the time of its sampling steps.

Importing this enters the host.
"""

from __future__ import annotations

import argparse
import gc
import math
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

BEGUN = time.perf_counter()
ROOT = Path(__file__).resolve().parent.parent
sys.path += [str(ROOT), *(str(ROOT / "tests" / tier / "parts") for tier in ("host", "unit"))]

from launcher.run.inside_host import enter_host, load_pack, temporary_base  # noqa: E402

_BASE = temporary_base()
ON_CPU = "--device" not in sys.argv or sys.argv[sys.argv.index("--device") + 1] == "cpu"
enter_host(Path(os.environ["COMFYUI_PATH"]), Path(_BASE.name), cpu=ON_CPU)
# How the host manages the card's memory is settled before it starts: "dynamic 75.5" has dynamic
# VRAM, "legacy 75.5" has none, and both keep so many GB from the host (device.py).
MEMORY, _, _RESERVED = os.environ.get("BENCH_MEMORY", "").partition(" ")
ASKED_DYNAMIC = MEMORY == "dynamic" or "--dynamic-vram" in sys.argv
if MEMORY:
    from comfy.cli_args import args as host_arguments

    host_arguments.reserve_vram = float(_RESERVED)
    host_arguments.disable_dynamic_vram = MEMORY != "dynamic"
if ASKED_DYNAMIC and not ON_CPU:
    import comfy_aimdo.control

    _headroom = int(float(_RESERVED) * 2**30) if MEMORY else None
    try:
        comfy_aimdo.control.init(simple_vram_headroom=_headroom)
    except TypeError:  # as of comfy-aimdo 0.4.9
        comfy_aimdo.control.init()
if "--launches" in sys.argv:
    import pretend_device

    pretend_device.become_the_hosts_device()
load_pack()

import comfy.cli_args  # noqa: E402
import oracle  # noqa: E402
import tiny  # noqa: E402
import torch  # noqa: E402
from comfy import memory_management, model_management, model_patcher  # noqa: E402
from craft_lora_pack.comfy_adapter.engine.modules import host_names, model_layers  # noqa: E402
from craft_lora_pack.craft_core.lora import parse_lora  # noqa: E402
from craft_lora_pack.craft_core.types import ROLES, Bank, Branch  # noqa: E402

SIZES: dict[str, dict[str, Any]] = {
    "small": {},
    "short": {  # SDXL's widths in a few blocks, which a compiler is done with in minutes
        "model_channels": 320,
        "num_res_blocks": [1, 1],
        "channel_mult": [1, 2],
        "num_head_channels": 64,
        "context_dim": 2048,
        "transformer_depth": [0, 1],
        "transformer_depth_output": [1, 1, 0, 0],
    },
    "deep": {  # all of SDXL's blocks, a tenth as wide
        "model_channels": 32,
        "num_res_blocks": [2, 2, 2],
        "channel_mult": [1, 2, 4],
        "num_head_channels": 16,
        "transformer_depth": [0, 0, 2, 2, 10, 10],
        "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10],
        "transformer_depth_middle": 10,
    },
    "wide": {
        "model_channels": 320,
        "channel_mult": [1, 2, 4],
        "num_head_channels": 64,
        "context_dim": 2048,
        "transformer_depth": [0, 1, 2],
        "transformer_depth_output": [2, 2, 1, 1, 0, 0],
        "transformer_depth_middle": 2,
    },
    "sdxl": {
        "model_channels": 320,
        "num_res_blocks": [2, 2, 2],
        "channel_mult": [1, 2, 4],
        "num_head_channels": 64,
        "context_dim": 2048,
        "transformer_depth": [0, 0, 2, 2, 10, 10],
        "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10],
        "transformer_depth_middle": 10,
    },
}
DTYPES = {  # of the weights, and of the products
    "fp32": (torch.float32, torch.float32),
    "fp16": (torch.float16, torch.float16),
    "bf16": (torch.bfloat16, torch.bfloat16),
    "fp8": (torch.float8_e4m3fn, torch.bfloat16),
}
DEVICE = model_management.get_torch_device()
STRENGTHS = (0.8, 0.8)
SCALE = 5.0  # guidance
LEFT_OVER = 1e8  # bytes on an emptied card that are worth a line


def _start_dynamic_vram() -> bool:
    """As the host's main.py does; whether it started."""
    if DEVICE.type != "cuda":
        return False
    devices = model_management.get_all_torch_devices()
    try:
        headroom = int(getattr(comfy.cli_args.args, "vram_headroom", 0) * 2**30)
        begun = comfy_aimdo.control.init_devices((one.index, headroom) for one in devices)
    except TypeError:  # as of comfy-aimdo 0.4.9
        begun = comfy_aimdo.control.init_devices(one.index for one in devices)
    if begun:
        model_patcher.CoreModelPatcher = model_patcher.ModelPatcherDynamic
        memory_management.aimdo_enabled = True
    return bool(begun)


IS_DYNAMIC = ASKED_DYNAMIC and _start_dynamic_vram()


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--dtype", choices=DTYPES, default="fp32")
    parser.add_argument("--size", choices=SIZES, default="wide", help="of the model")
    parser.add_argument("--batch", type=int, default=1, help="images")
    parser.add_argument("--rank", type=int, default=64)
    parser.add_argument("--latent", type=int, default=32, help="side of the latent")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument(
        "--dynamic-vram", action="store_true",
        help="with the host's dynamic VRAM, as it starts on an NVIDIA card",
    )  # fmt: skip
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument(
        "--seconds", type=float, default=math.inf,
        help="of the whole process: no round begins that would not be done by then, but the first",
    )  # fmt: skip


class World:
    """The model, its conditionings and the LoRAs' tensors."""

    def __init__(self, options: argparse.Namespace) -> None:
        torch.set_num_threads(options.threads)
        self.options = options
        self.changes = SIZES[options.size]
        self.peaks: dict[str, int] = {}  # bytes of the card, by way
        context = self.changes.get("context_dim", tiny.CONTEXT)
        self.positive, self.negative = (tiny.conditioning(s, 77, context=context) for s in (1, 2))
        self.model = self.another_model()
        layers = attention(model_layers(self.model))
        self.states = [tiny.random_lora(layers, options.rank, seed) for seed in (11, 12)]
        count = sum(p.numel() for p in self.model.model.diffusion_model.parameters())
        self.title = (
            f"SDXL class, {count / 1e6:.0f} M parameters, {options.dtype}, {device_name()}, "
            f"latent {options.latent}, batch {options.batch}, rank {options.rank} on {len(layers)} "
            f"attention layers, {options.threads} threads, median of {options.rounds} rounds x "
            f"{options.steps} steps, {vram()}"
        )

    def another_model(self, disable_dynamic: bool = False) -> Any:
        """As a loader of the host makes it, and tells how."""
        stored, computes = DTYPES[self.options.dtype]
        made = tiny.sdxl(stored, device=DEVICE, computes=computes, **self.changes)
        if made.is_dynamic():
            made.model.to(tiny.CPU)  # from where the host stages it
        if disable_dynamic:
            made = model_patcher.ModelPatcher(made.model, DEVICE, tiny.CPU)
        made.cached_patcher_init = (self.another_model, ())
        return made

    def bank(self) -> Bank:
        layers, names = model_layers(self.model), host_names(self.model)
        branches = [
            Branch(role, role, parse_lora(state, {}, layers, names).layers, strength)
            for role, state, strength in zip(ROLES, self.states, STRENGTHS, strict=True)
        ]
        return Bank.of(branches, list(layers))

    def cfg(self, model: Any) -> Any:
        return oracle.guider(model, self.positive, self.negative, SCALE)

    def load(self, guider: Any) -> None:
        """All of a guider's models on the device, so that a timing measures sampling alone."""
        patcher, twin = guider.model_patcher, getattr(guider, "twin", None)
        models = [patcher, *patcher.get_nested_additional_models()]
        model_management.load_models_gpu(models if twin is None else [*models, twin])

    def seconds_per_step(self, guider: Any) -> float:
        self.load(guider)
        return timed(lambda: self.sample(guider)) / self.options.steps

    def sample(self, guider: Any, steps: int | None = None) -> torch.Tensor:
        latent = tiny.latent(self.options.batch, self.options.latent)
        return oracle.sample(guider, latent, steps=steps or self.options.steps)

    def interleaved(self, guiders: Mapping[str, Any], share: float = 1.0) -> dict[str, list[float]]:
        """Seconds per step of each, taking turns in each round; the first round is a warm-up.
        share: of the process's seconds, in which this should be done."""
        seconds: dict[str, list[float]] = {name: [] for name in guiders}
        for round_number in rounds_in_time(self.options, share):
            for name, guider in guiders.items():
                elapsed = self.seconds_per_step(guider)
                if round_number:
                    seconds[name].append(elapsed)
        return seconds

    def measure_peaks(self, guiders: Mapping[str, Any]) -> None:
        """The most memory that each holds while it samples, with all other models unloaded; for
        guiders that have sampled before, since the host unloads what it has loaded itself."""
        for name, guider in guiders.items():
            if time.perf_counter() - BEGUN > self.options.seconds:
                print(f"{name}: no time was left to measure its memory")
                continue
            left = unload_all()
            if left > LEFT_OVER:
                print(f"{name}: {left / 1e9:.2f} GB stayed on the card when all was unloaded")
            self.load(guider)
            reset_peak()
            self.sample(guider)
            self.peaks[name] = peak()


def rounds_in_time(options: argparse.Namespace, share: float = 1.0) -> Iterator[int]:
    """0 for the warm-up, then the rounds that are asked for, as far as the seconds go; one in any
    case. A round is taken to last as long as the one before."""
    for number in range(options.rounds + 1):
        begun = time.perf_counter()
        yield number
        now = time.perf_counter()
        if 0 < number < options.rounds and 2 * now - begun - BEGUN > share * options.seconds:
            print(f"time for {number} of {options.rounds} rounds", flush=True)
            return


def timed(work: Callable[[], Any]) -> float:
    """Seconds until the device has done the work; on one thread of a CPU those of the processor,
    which other work on the machine changes little."""
    clock = time.process_time if in_processor_time() else time.perf_counter
    synchronise()
    start = clock()
    work()
    synchronise()
    return clock() - start


def in_processor_time() -> bool:
    """Whether `timed` gives the processor's time."""
    return DEVICE.type == "cpu" and torch.get_num_threads() == 1


def synchronise() -> None:
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


def unload_all() -> int:
    """Every model that the host has loaded off the card; -> bytes that stay there."""
    model_management.unload_all_models()
    gc.collect()
    model_management.soft_empty_cache()
    return torch.cuda.memory_allocated() if DEVICE.type == "cuda" else 0


def reset_peak() -> None:
    if DEVICE.type == "cuda":
        torch.cuda.reset_peak_memory_stats()


def peak() -> int:
    """Most bytes of the card that torch held at once since the last reset; 0 on a CPU."""
    return torch.cuda.max_memory_allocated() if DEVICE.type == "cuda" else 0


def vram() -> str:
    """How the host manages the card's memory here."""
    if IS_DYNAMIC:
        return "dynamic VRAM"
    return "no dynamic VRAM" + (", which does not start here" if ASKED_DYNAMIC else "")


def device_name() -> str:
    if DEVICE.type == "cuda":
        return torch.cuda.get_device_name()
    return "CPU" if DEVICE.type == "cpu" else f"{DEVICE.type} device"


def attention(layers: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    return {path: shape for path, shape in layers.items() if ".attn" in path}


def print_table(
    seconds: Mapping[str, list[float]], against: str, short: str,
    peaks: Mapping[str, int] | None = None,
) -> None:  # fmt: skip
    """Medians, minima, and the median ratio to one of the rows, round by round. peaks: bytes of
    the card, printed where there are some."""
    peaks = {name: held for name, held in (peaks or {}).items() if held}
    print(f"{'':28}{'s/step':>9}{'min':>9}{f'x {short}':>10}{'peak GB' if peaks else '':>9}")
    for name, values in seconds.items():
        ratios = [a / b for a, b in zip(values, seconds[against], strict=True)]
        print(
            f"{name:28}{statistics.median(values):9.3f}{min(values):9.3f}"
            f"{statistics.median(ratios):10.3f}"
            + (f"{peaks[name] / 1e9:9.2f}" if name in peaks else ""),
            flush=True,
        )
