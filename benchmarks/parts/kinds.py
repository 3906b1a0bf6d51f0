"""What each adapter kind costs on one layer, beside the layer itself and a plain LoRA."""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator

from _sdxl_class import torch

import comfy.ops  # isort: skip
from craft_lora_pack.comfy_adapter.engine.bank import BranchModule, layer_parts
from craft_lora_pack.comfy_adapter.engine.hooks import GatedChunks, LayerHook, ModelCall
from craft_lora_pack.craft_core.lora import parse_lora

WIDTH, TOKENS, ROWS = 1280, 1024, 2
FACTOR = 16  # of the LoKr
STEM = "lora_unet_a."
LAYER, PLAIN = "the layer alone", "LoRA"


def print_kinds(options: argparse.Namespace) -> None:
    torch.set_num_threads(options.threads)
    layer = comfy.ops.disable_weight_init.Linear(WIDTH, WIDTH, device="cpu", dtype=torch.float32)
    layer.weight.data = torch.randn(WIDTH, WIDTH) / WIDTH**0.5
    layer.bias.data = torch.randn(WIDTH)
    x = torch.randn(ROWS, TOKENS, WIDTH)
    hooks = {name: hook(state, layer) for name, state in files(options.rank)}
    hooks[f"{WIDTH // FACTOR} x {WIDTH // FACTOR} of that LoKr alone"] = larger_product
    seconds = {name: [] for name in (LAYER, *hooks)}
    with torch.inference_mode():
        for round_number in range(options.rounds + 1):  # the first takes norms, too
            for name, update in hooks.items():
                start = time.process_time()
                y = layer(x)
                between = time.process_time()
                update(layer, (x,), {}, y)
                if round_number:
                    seconds[LAYER].append(between - start)
                    seconds[name].append(time.process_time() - between)
    alone = statistics.median(seconds.pop(LAYER))
    medians = {LAYER: alone} | {n: alone + statistics.median(v) for n, v in seconds.items()}
    print(
        f"linear {WIDTH} x {WIDTH}, {ROWS} x {TOKENS} tokens, float32, rank {options.rank}, "
        f"{options.threads} threads, processor time, median of {options.rounds} rounds"
    )
    print(f"{'':28}{'ms':>9}{'x layer':>10}{'x LoRA':>10}")
    for name, value in medians.items():
        print(
            f"{name:28}{1000 * value:9.1f}{value / medians[LAYER]:10.3f}"
            f"{value / medians[PLAIN]:10.3f}"
        )


def files(rank: int) -> Iterator[tuple[str, dict[str, torch.Tensor]]]:
    """(what it is called, tensors of a file with one layer)"""
    plain = pair(rank)
    yield PLAIN, plain
    yield "DoRA, output axis", plain | {f"{STEM}dora_scale": torch.ones(WIDTH, 1)}
    yield "DoRA, input axis", plain | {f"{STEM}dora_scale": torch.ones(1, WIDTH)}
    side = WIDTH // FACTOR
    lokr = {"lokr_w1": torch.randn(FACTOR, FACTOR), "lokr_w2": torch.randn(side, side) / WIDTH}
    yield f"LoKr, factor {FACTOR}", {STEM + part: tensor for part, tensor in lokr.items()}
    same = (FACTOR * side**2 + side * FACTOR**2) // (2 * WIDTH)
    yield "LoRA of its multiplications", pair(same)
    yield "OFT, blocks of 32", {f"{STEM}oft_blocks": torch.randn(WIDTH // 32, 32, 32) / 100}
    down, up = pair(rank).values()
    mix = {"a1.weight": up, "a2.weight": down, "b1.weight": up, "b2.weight": down}
    yield "GLoRA", {STEM + part: tensor for part, tensor in mix.items()}
    yield "weight difference", {f"{STEM}diff": torch.randn(WIDTH, WIDTH) / WIDTH}
    yield "bias difference", {f"{STEM}diff_b": torch.randn(WIDTH)}


def pair(rank: int) -> dict[str, torch.Tensor]:
    return {
        f"{STEM}lora_down.weight": torch.randn(rank, WIDTH) / WIDTH**0.5,
        f"{STEM}lora_up.weight": torch.randn(WIDTH, rank) / 10,
    }


def larger_product(layer: torch.nn.Module, args: tuple, kwargs: dict, y: torch.Tensor) -> None:
    """A LoKr without the mixing of its groups, which no way to compute it can undercut."""
    side = WIDTH // FACTOR
    y.view(-1, side).addmm_(args[0].view(-1, side), layer.weight[:side, :side].T, alpha=0.8)


def hook(state: dict[str, torch.Tensor], layer: torch.nn.Linear) -> LayerHook:
    updates = parse_lora(state, {}, {"a": (WIDTH, WIDTH)}).layers
    call = ModelCall()
    call.set(1, [GatedChunks(0, 1, [[0.8]])])
    parts = layer_parts("a", [updates], [BranchModule(updates, torch.float32)])
    return LayerHook(0, "a", parts, call, layer)
