"""A random model of the host's SDXL class with two LoRAs, and the time of its sampling steps.

Importing this enters the host.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path += [str(ROOT), *(str(ROOT / "tests" / tier / "parts") for tier in ("host", "unit"))]

from launcher.run.inside_host import enter_host, load_pack, temporary_base  # noqa: E402

_BASE = temporary_base()
enter_host(Path(os.environ["COMFYUI_PATH"]), Path(_BASE.name), cpu=True)
load_pack()

import oracle  # noqa: E402
import tiny  # noqa: E402
import torch  # noqa: E402
from craft_lora_pack.comfy_adapter.engine.modules import host_names, model_layers  # noqa: E402
from craft_lora_pack.craft_core.lora import parse_lora  # noqa: E402
from craft_lora_pack.craft_core.types import ROLES, Bank, Branch  # noqa: E402

SIZES: dict[str, dict[str, Any]] = {
    "small": {},
    "wide": {
        "model_channels": 320,
        "channel_mult": [1, 2, 4],
        "num_head_channels": 64,
        "context_dim": 2048,
        "transformer_depth": [0, 1, 2],
        "transformer_depth_output": [2, 2, 1, 1, 0, 0],
        "transformer_depth_middle": 2,
    },
}
STRENGTHS = (0.8, 0.8)
SCALE = 5.0  # guidance


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--size", choices=SIZES, default="wide")
    parser.add_argument("--rank", type=int, default=64)
    parser.add_argument("--latent", type=int, default=32, help="side of the latent")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())


class World:
    """The model, its conditionings and the LoRAs' tensors."""

    def __init__(self, options: argparse.Namespace) -> None:
        torch.set_num_threads(options.threads)
        self.options = options
        self.changes = SIZES[options.size]
        context = self.changes.get("context_dim", tiny.CONTEXT)
        self.positive, self.negative = (tiny.conditioning(s, 77, context=context) for s in (1, 2))
        self.model = self.another_model()
        layers = attention(model_layers(self.model))
        self.states = [tiny.random_lora(layers, options.rank, seed) for seed in (11, 12)]
        count = sum(p.numel() for p in self.model.model.diffusion_model.parameters())
        self.title = (
            f"SDXL class, {count / 1e6:.0f} M parameters, float32, latent {options.latent}, rank "
            f"{options.rank} on {len(layers)} attention layers, {options.threads} threads, "
            f"median of {options.rounds} rounds x {options.steps} steps"
        )

    def another_model(self) -> Any:
        return tiny.sdxl(**self.changes)

    def bank(self) -> Bank:
        layers, names = model_layers(self.model), host_names(self.model)
        branches = [
            Branch(role, role, parse_lora(state, {}, layers, names).layers, strength)
            for role, state, strength in zip(ROLES, self.states, STRENGTHS, strict=True)
        ]
        return Bank.of(branches, list(layers))

    def cfg(self, model: Any) -> Any:
        return oracle.guider(model, self.positive, self.negative, SCALE)

    def seconds_per_step(self, guider: Any) -> float:
        latent = tiny.latent(size=self.options.latent)
        oracle.load(guider)
        start = time.perf_counter()
        oracle.sample(guider, latent, steps=self.options.steps)
        return (time.perf_counter() - start) / self.options.steps

    def interleaved(self, guiders: Mapping[str, Any]) -> dict[str, list[float]]:
        """Seconds per step of each, taking turns in each round; the first round is a warm-up."""
        seconds: dict[str, list[float]] = {name: [] for name in guiders}
        for round_number in range(self.options.rounds + 1):
            for name, guider in guiders.items():
                elapsed = self.seconds_per_step(guider)
                if round_number:
                    seconds[name].append(elapsed)
        return seconds


def attention(layers: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    return {path: shape for path, shape in layers.items() if ".attn" in path}


def print_table(seconds: Mapping[str, list[float]], against: str, short: str) -> None:
    """Medians, minima, and the median ratio to one of the rows, round by round."""
    print(f"{'':28}{'s/step':>9}{'min':>9}{f'x {short}':>10}")
    for name, values in seconds.items():
        ratios = [a / b for a, b in zip(values, seconds[against], strict=True)]
        print(
            f"{name:28}{statistics.median(values):9.3f}{min(values):9.3f}"
            f"{statistics.median(ratios):10.3f}"
        )
