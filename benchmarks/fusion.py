"""What fusing an SDXL-size pair costs: choosing layers, a step of every method, and a file.

    python run.py bench fusion [--parts selection files steps] [--ranks 16 64] [--powers 0]
                               [--size wide|small] [--rounds 7] [--threads N] [--device cuda]

Selection: the sums that K-LoRA and the layer set `auto` compare, of a pair on all attention and
feed-forward layers of the real SDXL UNet, which a Router measures once for each choice of files.
The k-th singular value of each layer falls as 1 / k^power: 0 are random factors, the worst case;
those of trained LoRAs fall, in most layers of the small world's as with power 1 or faster. Beside
them the products of the factors alone, which every entry of dW takes: in the same pieces, without
looking at a number. With
--device cuda the LoRAs lie on the card, and the time is the wall's until the card is done.
Files: a pair is baked by every weight merge. For both, one layer of each shape is timed, and its
time multiplied by how often the shape occurs.
Steps: every run-time method on a random model of the host's SDXL class, taking turns; ratios are to
the direct merge in the same round.
"""

from __future__ import annotations

import argparse
import itertools
import math
import time
from collections import Counter
from functools import partial

from _sdxl_class import DEVICE, World, add_flags, in_processor_time, print_table, timed, torch
from unet_layers import sdxl_layers

from craft_lora_pack.comfy_adapter.engine import engine  # isort: skip
from craft_lora_pack.craft_core.fusion import FUSION, compose
from craft_lora_pack.craft_core.lora import pair_statistics
from craft_lora_pack.craft_core.merging import MERGES, Writing, bake_merge
from craft_lora_pack.craft_core.registry import Method
from craft_lora_pack.craft_core.types import ROLES, Branch, Factors, Routing, Statistics

PARTS = ("selection", "files", "steps")
COMPARED = {"auto": ["top_k"], "K-LoRA": ["abs_sum", "top_k"]}
PRODUCTS = "products alone"
PIECE = 1 << 18  # entries, which a processor's cache holds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--ranks", type=int, nargs="+", default=[16, 64], help="of the pairs")
    parser.add_argument("--powers", type=float, nargs="+", default=[0.0], help="of selection")
    add_flags(parser)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if "selection" in options.parts:
        for rank, power in itertools.product(options.ranks, options.powers):
            print(selection(rank, power, options.rounds), flush=True)
    if "files" in options.parts:
        for method in MERGES:
            print(baking(method, options.ranks[0]), flush=True)
    if "steps" in options.parts:
        world = World(options)
        print(f"\n{world.title}")
        print_table(world.interleaved(guiders(world)), "direct", "direct")


def selection(rank: int, power: float, rounds: int) -> str:
    """Time to choose between content and style in every layer of an SDXL pair on the device, from
    the shortest of some rounds on one layer of each shape."""
    shapes = Counter(adapted_layers().values())
    layers = {str(i): shape for i, shape in enumerate(shapes)}
    pair = random_pair(layers, rank, power, DEVICE)
    seconds = dict.fromkeys(itertools.product((*COMPARED, PRODUCTS), layers), math.inf)
    for _ in range(rounds):
        for name, path in seconds:
            if name == PRODUCTS:
                call = partial(multiply, [branch.layers[path][0] for branch in pair])
            else:
                call = partial(choose, pair_statistics(pair, layers), COMPARED[name], path)
            elapsed = timed(call)
            seconds[name, path] = min(seconds[name, path], elapsed)
    counts = dict(zip(layers, shapes.values(), strict=True))
    totals = (
        f"{name} {sum(seconds[name, path] * counts[path] for path in layers):.2f} s"
        for name in (*COMPARED, PRODUCTS)
    )
    clock = "processor" if in_processor_time() else "wall"
    return f"selection, rank {rank}, power {power:g}: {', '.join(totals)} of {clock} time"


def choose(statistics: Statistics, compared: list[str], path: str) -> None:
    """Measure what a layer's choice compares."""
    for statistic in compared:
        assert statistics.shared(statistic)[path]


def multiply(both: list[Factors]) -> None:
    """Every entry of dW of both LoRAs, a piece at a time, made and left."""
    for one in both:
        up, down = one.up.float(), one.down.float()
        height = max(
            1, (PIECE if DEVICE.type == "cpu" else len(up) * down.shape[1]) // down.shape[1]
        )
        piece = down.new_empty(height, down.shape[1])
        for part in up.split(height):
            torch.mm(part, down, out=piece[: len(part)])


def baking(method: Method, rank: int) -> str:
    """Processor time to bake a pair by a weight merge, from one layer of each shape."""
    shapes = Counter(adapted_layers().values())
    layers = {str(i): shape for i, shape in enumerate(shapes)}
    pair = random_pair(layers, rank)
    seconds = []
    baked = bake_merge(pair, layers, method, method.knobs({}), Writing(2 * rank))
    for _ in layers:
        start = time.process_time()
        assert next(baked) is not None
        seconds.append(time.process_time() - start)
    total = sum(one * count for one, count in zip(seconds, shapes.values(), strict=True))
    return (
        f"file by {method.key}, rank {rank} + {rank} to {2 * rank}: {total:.0f} s of processor "
        f"time, from one layer of each of {len(shapes)} shapes (the slowest {max(seconds):.2f} s)"
    )


def adapted_layers() -> dict[str, tuple[int, ...]]:
    """What most SDXL LoRAs adapt."""
    return {path: s for path, s in sdxl_layers().items() if ".attn" in path or ".ff." in path}


def random_pair(layers, rank: int, power: float = 0.0, device="cpu") -> list[Branch]:
    return [
        random_branch(role, layers, rank, power, seed, device) for seed, role in enumerate(ROLES)
    ]


def random_branch(role, layers, rank: int, power: float, seed: int, device) -> Branch:
    random = torch.Generator().manual_seed(seed)
    values = torch.arange(1.0, rank + 1) ** -power
    made = {}
    for path, (out, inputs) in layers.items():
        down, up = (torch.randn(*size, generator=random) * 0.02
                    for size in ((rank, inputs), (out, rank)))  # fmt: skip
        if power:  # mixed among the ranks, as in a trained file
            turn = torch.linalg.qr(torch.randn(rank, rank, generator=random)).Q
            down, up = turn.T @ down, (up * values) @ turn
        made[path] = (Factors(down.half().to(device), up.half().to(device)),)
    return Branch(role, role, made)


def guiders(world: World) -> dict[str, object]:
    bank = world.bank()
    everywhere = (frozenset(bank.layers),) * 2
    routing = Routing((1.0, 1.0), everywhere, pair_statistics(bank.branches, bank.layers))
    made = {}
    for method in sorted(FUSION, key=lambda method: method.key != "direct"):
        gates = compose(method.function(bank, routing), bank)
        made[method.key] = world.cfg(engine.attach(world.model, bank, gates))
    return made


if __name__ == "__main__":
    main()
