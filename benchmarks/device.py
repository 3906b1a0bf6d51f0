"""What a card does beside the steps that `bench engine` times: edits, memory, training.

    python run.py bench device edits|memory|training [--device cuda] [--dtype bf16] [--size sdxl]
                               [--dynamic-vram] [--compiled]

edits: seconds from a run of the graph to the end of the first step, of our Router and of the host's
two LoraLoaders, after a prompt edit and a strength edit; nothing else has changed since the run
before. Before each one's first run the base model alone is loaded. With --dynamic-vram, under the
host's dynamic VRAM where the card's host has it; the first line says whether. With --compiled, of
our Router with Torch Compile Model behind it, and the graphs that each run compiled (by inductor;
on a CPU, which it takes minutes, they are only traced). memory: the same picture with the host's
dynamic VRAM and without it, on a card of which only --free GB are left to the host. Neither may
differ from what is sampled with all memory by more than four times what calling the model row by
row changes, or by more than 2e-5 where that is less; the script fails if one does, or did not run.
training: seconds of a step and the most memory held, of our LoRA, basis and expert encoder and of
the host's TrainLoraNode, on one picture, with checkpointing. `benchmarks/gpu.sh` runs all of it.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from _sdxl_class import (
    DEVICE,
    IS_DYNAMIC,
    MEMORY,
    SCALE,
    World,
    add_flags,
    oracle,
    peak,
    reset_peak,
    rounds_in_time,
    timed,
    tiny,
    torch,
    unload_all,
)

import comfy.model_management  # isort: skip
import nodes  # isort: skip
import router  # isort: skip
from comfy_extras.nodes_torch_compile import TorchCompileModel  # isort: skip
from comfy_extras.nodes_train import TrainLoraNode  # isort: skip
from benchmarks.parts.verdict import complaints  # isort: skip
from craft_lora_pack.comfy_adapter.engine.modules import model_layers
from craft_lora_pack.comfy_adapter.train import denoiser as adapter
from craft_lora_pack.craft_core.encoder.network import Concept, PhraseEmbeddings
from craft_lora_pack.craft_core.training import (
    Dataset,
    Example,
    Lessons,
    Pairs,
    Phrased,
    Pictures,
    RoleLayers,
    basis,
    expert_encoder,
    lora,
)
from craft_lora_pack.craft_core.types import ROLES
from engine import prepare_compiling, routed

RANK = 16  # of the LoRAs that are trained
PHRASE = 1280  # numbers that SDXL's pooled text encoder describes a phrase by
HOSTS = "LoRA of the host's TrainLoraNode"
TRAINED = ("LoRA of ours", HOSTS, "expert encoder of ours", "basis of ours")


def main() -> None:
    # No abbreviations: some flags are looked for before the host is entered.
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0], allow_abbrev=False)
    parser.add_argument("part", choices=("edits", "memory", "training"))
    add_flags(parser)
    parser.add_argument("--free", type=float, default=3.0, help="GB left to the host in `memory`")
    parser.add_argument("--compiled", action="store_true", help="`edits` under torch.compile")
    parser.add_argument("--save", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--by-rows", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    {"edits": edits, "memory": memory, "training": training}[options.part](options)


# Edits


class TextEncoder:
    """A prompt's conditioning at once: the time of encoding is the same for both."""

    def __init__(self, context: int) -> None:
        self.context = context

    def tokenize(self, text: str) -> str:
        return text

    def encode_from_tokens_scheduled(self, tokens: str) -> list:
        return tiny.conditioning(len(tokens), 77, context=self.context)


def edits(options: argparse.Namespace) -> None:
    world = World(options)
    print(world.title)
    layers = {p: s for p, s in model_layers(world.model).items() if ".attn" in p or ".ff." in p}
    router.layers = lambda: layers
    router.write_files(options.rank)
    clip = TextEncoder(world.changes.get("context_dim", tiny.CONTEXT))
    ways = (("ours", routed_run), ("host", merged_run))
    if options.compiled:
        ways = (("ours", compiled_run),)
        prepare_compiling()
    seconds: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    graphs: dict[str, int] = {}  # of the last round
    for number in rounds_in_time(options):
        for who, way in ways if number % 2 else reversed(ways):
            kept: list = []  # the host keeps what a graph made until it is made anew
            unload_all()  # patches of the other
            comfy.model_management.load_models_gpu([world.model])
            for step, prompt, strength in (
                ("first run", "a dog", 0.8), ("prompt edit", "a cat!", 0.8),
                ("strength edit", "a cat!", 0.6),
            ):  # fmt: skip
                before = compiled_graphs()
                elapsed = timed(partial(way, world, clip, prompt, strength, kept))
                graphs[step] = compiled_graphs() - before
                if number or options.compiled:  # which the first round alone compiles
                    seconds[step][who].append(elapsed)
        if options.compiled:
            _print_compiled(seconds, graphs, number)
    if not options.compiled:
        _print_edits(seconds)


def _print_edits(seconds) -> None:
    print(f"{'':16}{'ours, s':>10}{'host, s':>10}{'x host':>9}")
    for step, found in seconds.items():
        ratio = statistics.median(a / b for a, b in zip(found["ours"], found["host"], strict=True))
        own, other = (statistics.median(found[who]) for who in ("ours", "host"))
        print(f"{step:16}{own:10.3f}{other:10.3f}{ratio:9.2f}", flush=True)


def _print_compiled(seconds, graphs: dict[str, int], number: int) -> None:
    """Of one round, at once: a compiler may take all the time there is."""
    print(f"{f'round {number}, compiled':22}{'ours, s':>10}{'graphs':>9}")
    for step, found in seconds.items():
        print(f"{step:22}{found['ours'][-1]:10.3f}{graphs[step]:9}", flush=True)


def compiled_graphs() -> int:
    """So far, in this process."""
    dynamo = sys.modules.get("torch._dynamo.utils")
    return dynamo.counters["stats"]["unique_graphs"] if dynamo else 0


def routed_run(world: World, clip, prompt: str, strength: float, kept: list) -> None:
    model, positive = _routed(world, clip, prompt, strength)
    kept.append(model)
    world.sample(oracle.guider(model, positive, world.negative, SCALE), steps=1)


def compiled_run(world: World, clip, prompt: str, strength: float, kept: list) -> None:
    """The host forgets what nodes made before it makes it anew, but for what stands before them."""
    kept.clear()
    model, positive = _routed(world, clip, prompt, strength)
    backend = "inductor" if DEVICE.type == "cuda" else "eager"
    (model,) = TorchCompileModel.execute(model, backend).args
    kept.append(model)
    world.sample(oracle.guider(model, positive, world.negative, SCALE), steps=1)


def _routed(world: World, clip, prompt: str, strength: float) -> tuple:
    settings = {
        "prompt": f"<c>{prompt}</c> in <s>ink style</s>", "content_lora": "content.safetensors",
        "style_lora": "style.safetensors", "content_strength": strength, "style_strength": 0.8,
        "layer_sets": {"layer_sets": "all"}, "method": {"method": "direct"},
    }  # fmt: skip
    with torch.inference_mode():
        return router.Router.execute(world.model, clip, **settings).result[:2]


def merged_run(world: World, clip, prompt: str, strength: float, kept: list) -> None:
    """The host's nodes, of which those run whose inputs have changed."""
    made = dict(kept)
    if strength not in made:
        first, second = nodes.LoraLoaderModelOnly(), nodes.LoraLoaderModelOnly()
        (one,) = first.load_lora_model_only(world.model, "content.safetensors", strength)
        (made[strength],) = second.load_lora_model_only(one, "style.safetensors", 0.8)
        kept.append((strength, made[strength]))
    positive = clip.encode_from_tokens_scheduled(prompt)
    world.sample(oracle.guider(made[strength], positive, world.negative, SCALE), steps=1)


# Memory


def memory(options: argparse.Namespace) -> None:
    if options.save is None:
        _compare_memory(options)
    else:
        _sample_in(options)


def _sample_in(options: argparse.Namespace) -> None:
    """A picture under one way of managing memory, written to a file. A process of its own."""
    if MEMORY == "dynamic" and not IS_DYNAMIC:
        sys.exit("dynamic VRAM does not start here")
    world = World(options)
    world.model.model.to(tiny.CPU)  # from where the host loads what fits
    model = routed(world, None)
    guider = world.cfg(model)
    world.sample(guider)
    reset_peak()
    seconds = timed(lambda: world.sample(guider)) / options.steps
    found = {"seconds": seconds, "held": peak(), "picture": world.sample(guider).cpu()}
    if options.by_rows:
        found["by rows"] = world.sample(world.cfg(oracle.row_by_row(model))).cpu()
    torch.save(found, options.save)


def _compare_memory(options: argparse.Namespace) -> None:
    """Print what each way takes and how far its picture is from the one with all memory."""
    total = comfy.model_management.get_total_memory(DEVICE) / 2**30
    ways = ("all", "legacy", "dynamic") if DEVICE.type == "cuda" else ("all", "legacy")
    found = {how: _sampled(how, total, options) for how in ways}
    exact, differences = found["all"], dict.fromkeys(ways)
    if exact is None:
        sys.exit("all did not run, and the others have nothing to be compared with")
    tolerance = oracle.law(exact["picture"], exact["by rows"])
    print(f"{'host memory':12}{'GB':>6}{'s/step':>9}{'peak GB':>9}{'difference':>12}")
    for how, one in found.items():
        given = total if how == "all" else options.free
        if one is None:
            print(f"{how:12}{given:6.1f}  did not run")
            continue
        differences[how] = off = oracle.distance(one["picture"], exact["picture"])
        held = one["held"] / 1e9
        print(f"{how:12}{given:6.1f}{one['seconds']:9.3f}{held:9.2f}{off:12.1e}", flush=True)
    print(f"allowed difference {tolerance:.1e}")
    if DEVICE.type != "cuda":
        print("dynamic VRAM needs a card")
    wrong = complaints(differences, tolerance)
    if wrong:
        sys.exit("\n".join(wrong))


def _sampled(how: str, total: float, options: argparse.Namespace) -> dict | None:
    """What `_sample_in` writes; None where it fails. total: GB of the card."""
    reserved = 0.0 if how == "all" else max(0.0, total - options.free)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "picture.pt"
        command = [sys.executable, *sys.argv, "--save", str(place), *["--by-rows"] * (how == "all")]
        managed = {"BENCH_MEMORY": f"{'dynamic' if how == 'dynamic' else 'legacy'} {reserved}"}
        done = subprocess.run(command, env={**os.environ, **managed})
        return torch.load(place) if done.returncode == 0 else None


# Training


def training(options: argparse.Namespace) -> None:
    world = World(options)
    print(world.title)
    # Each training has a copy of its own on the card, made anew as the host's loaders make it.
    world.model.model.to(tiny.CPU)
    print(f"{'a step of':34}{'s':>9}{'peak GB':>9}")
    for name in TRAINED:
        seconds, held = _hosts(world) if name == HOSTS else _ours(world, name)
        print(f"{name:34}{statistics.median(seconds):9.3f}{held / 1e9:9.2f}", flush=True)


def _ours(world: World, name: str) -> tuple[list[float], int]:
    """(seconds of each step, most bytes of the card held)"""
    unload_all()
    with ExitStack() as stack:
        one = _begun(stack, world, name)
        one.advance()
        reset_peak()
        return [timed(one.advance) for _ in range(world.options.rounds)], peak()


def _begun(stack: ExitStack, world: World, name: str):
    branches = world.bank().branches
    precision = "fp32" if DEVICE.type == "cpu" else "bf16"
    opened = adapter.open_denoiser(world.model, precision=precision, checkpointing=True)
    denoiser = stack.enter_context(opened)
    latent = tiny.latent(1, world.options.latent, seed=3)["samples"][0]
    data = Dataset((Example(latent, world.positive),), world.positive)
    pace = {"steps": 10_000, "batch_size": 1}
    if name.startswith("basis"):
        return basis(denoiser, Pairs(data, data), "", **pace)
    if name.startswith("expert encoder"):
        phrases = PhraseEmbeddings(*torch.randn(2, PHRASE))
        lessons = Lessons(Phrased(data, (phrases,), ((1.0,) * len(branches),)))
        concept = Concept.of([(role, role) for role in ROLES])
        return expert_encoder(denoiser, lessons, branches, concept, **pace)
    place = RoleLayers("content", frozenset(_linear(denoiser.layers)))
    return lora(denoiser, Pictures(data), place, rank=RANK, **pace)


def _linear(layers) -> list[str]:
    return [path for path in layers if ".attn" in path or ".ff." in path]


def _hosts(world: World) -> tuple[list[float], int]:
    """Of the node's own training, what one step more costs. It trains every weight's LoRA."""
    latent = tiny.latent(1, world.options.latent, seed=3)
    dtype = "fp32" if DEVICE.type == "cpu" else "bf16"

    def run(steps: int) -> None:
        settings = {
            "batch_size": 1, "grad_accumulation_steps": 1, "learning_rate": 1e-4, "rank": RANK,
            "optimizer": "AdamW", "loss_function": "MSE", "seed": 0, "training_dtype": dtype,
            "lora_dtype": dtype, "quantized_backward": False, "algorithm": "LoRA",
            "gradient_checkpointing": True, "checkpoint_depth": 1, "offloading": False,
            "existing_lora": "[None]", "bucket_mode": False, "bypass_mode": False,
        }  # fmt: skip
        lists = {key: [value] for key, value in settings.items()}
        TrainLoraNode.execute([world.model], [latent], [world.positive], steps=[steps], **lists)

    more = world.options.rounds
    run(1)
    short = timed(lambda: run(1))
    unload_all()
    reset_peak()
    return [(timed(lambda: run(1 + more)) - short) / more], peak()


if __name__ == "__main__":
    main()
