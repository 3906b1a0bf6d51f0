"""Seconds per sampling step of six ways to run two LoRAs, interleaved in one process.

    python run.py bench engine [--size wide|small] [--rank 64] [--latent 32] [--rounds 7]

Every way samples the same random model of the host's SDXL class with the host's own euler; one
round runs each once, in turn, so that a drift of the machine meets all alike. Ratios are against
the host's LoraLoader (LoRAs merged into the weights) of the same round.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path += [str(ROOT), str(ROOT / "tests" / "host")]

from launcher.inside_host import enter_host, load_pack, temporary_base  # noqa: E402

_BASE = temporary_base()
enter_host(Path(os.environ["COMFYUI_PATH"]), Path(_BASE.name), cpu=True)
load_pack()

import comfy.hooks  # noqa: E402
import comfy.samplers  # noqa: E402
import comfy.sd  # noqa: E402
import oracle  # noqa: E402
import tiny  # noqa: E402
import torch  # noqa: E402
from craft_lora_pack.comfy_adapter import engine  # noqa: E402
from craft_lora_pack.comfy_adapter.acfg import acfg_guider  # noqa: E402
from craft_lora_pack.comfy_adapter.modules import host_names, model_layers  # noqa: E402
from craft_lora_pack.craft_core.fusion.compose import compose  # noqa: E402
from craft_lora_pack.craft_core.lora import parse_lora  # noqa: E402
from craft_lora_pack.craft_core.schedule.schedule import Schedule  # noqa: E402
from craft_lora_pack.craft_core.types import Bank, Branch, constant_gates  # noqa: E402

SIZES = {
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


def main() -> None:
    options = _options()
    ways = Ways(options)
    print(ways.title)
    seconds: dict[str, list[float]] = {name: [] for name in ways.guiders}
    for round_number in range(options.rounds + 1):
        for name, guider in ways.guiders.items():
            elapsed = ways.seconds_per_step(guider)
            if round_number:  # the first round warms up
                seconds[name].append(elapsed)
    _print_table(seconds)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--size", choices=SIZES, default="wide")
    parser.add_argument("--rank", type=int, default=64)
    parser.add_argument("--latent", type=int, default=32, help="side of the latent")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    return parser.parse_args()


class Ways:
    """The six guiders on one backbone (and a second model for the two-model way)."""

    def __init__(self, options: argparse.Namespace) -> None:
        torch.set_num_threads(options.threads)
        self.options = options
        changes = SIZES[options.size]
        context = changes.get("context_dim", tiny.CONTEXT)
        self.positive, self.negative = (tiny.conditioning(s, 77, context=context) for s in (1, 2))
        model, other = tiny.sdxl(**changes), tiny.sdxl(**changes)
        layers = _attention(model_layers(model))
        self.states = [tiny.random_lora(layers, options.rank, seed) for seed in (11, 12)]
        count = sum(p.numel() for p in model.model.diffusion_model.parameters())
        self.title = (
            f"SDXL class, {count / 1e6:.0f} M parameters, float32, latent {options.latent}, rank "
            f"{options.rank} on {len(layers)} attention layers, {options.threads} threads, "
            f"median of {options.rounds} rounds x {options.steps} steps"
        )
        merged = self._merged(model)
        routed = self._routed(model, None)
        scheduled = self._routed(model, Schedule("cosine"))
        self.guiders = {
            "no LoRA": self._cfg(model),
            "host LoraLoader (merged)": self._cfg(merged),
            "ours, direct": self._cfg(routed),
            "ours, ACFG cosine": acfg_guider(scheduled, self.positive, self.negative, 5.0, True),
            "host hooks with keyframes": self._hooked(model),
            "two separate models": self._two_models(model, self._merged(other)),
        }

    def seconds_per_step(self, guider) -> float:
        latent = tiny.latent(size=self.options.latent)
        oracle.load(guider)
        start = time.perf_counter()
        oracle.sample(guider, latent, steps=self.options.steps)
        return (time.perf_counter() - start) / self.options.steps

    def _cfg(self, model):
        return oracle.guider(model, self.positive, self.negative, 5.0)

    def _merged(self, model):
        for state, strength in zip(self.states, STRENGTHS, strict=True):
            model, _ = comfy.sd.load_lora_for_models(model, None, state, strength, 0.0)
        return model

    def _routed(self, model, schedule):
        layers = model_layers(model)
        branches = [
            Branch(role, role, parse_lora(state, {}, layers, host_names(model)).layers, strength)
            for role, state, strength in zip(
                ("content", "style"), self.states, STRENGTHS, strict=True
            )
        ]
        bank = Bank.of(branches, list(layers))
        ones = constant_gates(torch.ones(len(bank.layers), 2))
        return engine.attach(model, bank, compose(ones, bank, schedule))

    def _hooked(self, model):
        """The host's own way to LoRAs on the positive prompt with strengths over time."""
        groups = []
        for state, strength, rising in zip(self.states, STRENGTHS, (False, True), strict=True):
            group = comfy.hooks.create_hook_lora(state, strength, 0.0)
            frames = comfy.hooks.HookKeyframeGroup()
            steps = self.options.steps
            for step in range(steps):
                value = (step if rising else steps - 1 - step) / max(1, steps - 1)
                frames.add(comfy.hooks.HookKeyframe(value, step / steps))
            group.set_keyframes_on_hooks(frames)
            groups.append(group)
        both = comfy.hooks.HookGroup.combine_all_hooks(groups)
        positive = comfy.hooks.set_hooks_for_conditioning(self.positive, both)
        plain = model.clone()
        plain.register_all_hook_patches(
            both, comfy.hooks.create_target_dict(comfy.hooks.EnumWeightTarget.Model)
        )
        return oracle.guider(plain, positive, self.negative, 5.0)

    def _two_models(self, model, twin):
        reference = oracle.TwoModels(model, twin, [], lambda progress: ())
        reference.set_conds(self.positive, self.negative)
        reference.set_cfg(5.0)
        return reference


def _attention(layers: dict) -> dict:
    return {path: shape for path, shape in layers.items() if ".attn" in path}


def _print_table(seconds: dict[str, list[float]]) -> None:
    merged = seconds["host LoraLoader (merged)"]
    print(f"{'':28}{'s/step':>9}{'min':>9}{'x merged':>10}")
    for name, values in seconds.items():
        ratios = [a / b for a, b in zip(values, merged, strict=True)]
        print(
            f"{name:28}{statistics.median(values):9.3f}{min(values):9.3f}"
            f"{statistics.median(ratios):10.3f}"
        )


if __name__ == "__main__":
    main()
