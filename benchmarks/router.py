"""What an edit of a Router costs, beside the host's two LoraLoaders, on SDXL's true layer list.

    python run.py bench router [--ranks 16 64 128] [--rounds 5] [--dtype fp16|fp32] [--threads 1]

Seconds from the nodes' start to a MODEL that is ready to be sampled, its LoRAs loaded; encoding the
text is left out. Two random LoRA files (half precision, the 700 attention and feed-forward layers)
are written first, so that the system has them in memory. In each round everything is done once in
turn: ours through the Router, the host's by its own nodes. `patching` is what the host does besides
before it samples: it merges both LoRAs into every weight again. It is measured on one layer of each
shape and multiplied by how often the shape occurs; the base model has no weights here. Ours has no
such work.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path

from _sdxl_class import torch

import comfy.lora  # isort: skip
import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.supported_models
import folder_paths
import nodes
import safetensors.torch
from craft_lora_pack.nodes.router import Router
from unet_layers import sdxl_layers

UNET = {
    "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 320,
    "num_res_blocks": [2, 2, 2], "channel_mult": [1, 2, 4],
    "transformer_depth": [0, 0, 2, 2, 10, 10],
    "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10], "transformer_depth_middle": 10,
    "context_dim": 2048, "num_heads": -1, "num_head_channels": 64, "legacy": False,
    "use_spatial_transformer": True, "use_linear_in_transformer": True, "adm_in_channels": 2816,
    "num_classes": "sequential", "use_temporal_attention": False,
}  # fmt: skip
DTYPES = {"fp16": torch.float16, "fp32": torch.float32}
CPU = torch.device("cpu")
FILES = ("content", "style", "another_style")
STATUS = Path("/proc/self/status")  # where the system has it


class TextEncoder:
    """Encodes nothing: that time is not measured."""

    def tokenize(self, text: str) -> str:
        return text

    def encode_from_tokens_scheduled(self, tokens: str) -> list:
        return []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--ranks", type=int, nargs="+", default=[16, 64, 128])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dtype", choices=DTYPES, default="fp16", help="in which the model runs")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = base_model(DTYPES[options.dtype])
    for rank in options.ranks:
        size = write_files(rank)
        print(
            f"\nrank {rank}: two files of {size / 2**20:.0f} MB, 700 layers; the model runs in "
            f"{options.dtype}, {options.threads} threads, median of {options.rounds} rounds"
        )
        measure(model, size, options.rounds)


def base_model(dtype: torch.dtype):
    """A MODEL of SDXL's UNet at its true size, on the meta device."""
    config = comfy.supported_models.SDXL({**UNET, "dtype": dtype})
    config.set_inference_dtype(dtype, None)
    with torch.device("meta"):
        network = comfy.model_base.SDXL(config, device="meta")
    return comfy.model_patcher.ModelPatcher(network, CPU, CPU)


def write_files(rank: int) -> int:
    """The LoRA files, in the host's folder; -> bytes of one."""
    folder = Path(folder_paths.get_folder_paths("loras")[0])
    numbers = (torch.randn(1 << 21) * 0.02).half()
    for name in FILES:
        tensors = {}
        for path, (out, inputs) in layers().items():
            stem = f"lora_unet_{path.replace('.', '_')}"
            tensors[f"{stem}.alpha"] = torch.tensor(float(rank))
            for part, shape in (("down", (rank, inputs)), ("up", (out, rank))):
                own = numbers[: shape[0] * shape[1]].reshape(shape).clone()
                tensors[f"{stem}.lora_{part}.weight"] = own
        safetensors.torch.save_file(tensors, folder / f"{name}.safetensors")
    folder_paths.filename_list_cache.clear()
    return (folder / f"{FILES[0]}.safetensors").stat().st_size


def layers() -> dict[str, tuple[int, ...]]:
    """What most SDXL LoRAs adapt."""
    return {path: s for path, s in sdxl_layers().items() if ".attn" in path or ".ff." in path}


def measure(model, size: int, rounds: int) -> None:
    seconds: dict[tuple[str, str], list[float]] = defaultdict(list)
    peaks: dict[str, list[float]] = defaultdict(list)
    for number in range(rounds + 1):  # the first is a warm-up
        for who, way in (("ours", ours), ("host", host)):
            for step, elapsed, peak in way(model):
                if number:
                    seconds[step, who].append(elapsed)
                    if step == "first run":
                        peaks[who].append(peak)
    patching = host_patching()
    print(f"{'':14}{'ours, s':>10}{'host, s':>10}{'x host':>9}{'host patching, s':>19}")
    for step in ("first run", "prompt edit", "strength edit", "method edit", "file changed"):
        print(row(step, seconds[step, "ours"], seconds.get((step, "host")), patching.get(step)))
    if STATUS.exists():
        found = ", ".join(
            f"{who} {statistics.median(some) / (2 * size):.2f}" for who, some in peaks.items()
        )
        print(
            f"peak memory of the first run, mapped files included, in sizes of both files: {found}"
        )


def row(step: str, own: list[float], other: list[float] | None, patching: float | None) -> str:
    line = f"{step:14}{statistics.median(own):10.3f}"
    if other:
        ratio = statistics.median(a / b for a, b in zip(own, other, strict=True))
        line += f"{statistics.median(other):10.3f}{ratio:9.2f}"
    else:
        line += f"{'-':>10}{'-':>9}"
    return line + (f"{patching:19.1f}" if patching is not None else f"{'-':>19}")


def ours(model):
    """(step, seconds, bytes) of each; the MODEL before an edit lives, as the host caches it."""
    settings = {
        "prompt": "<c>a dog</c> in <s>ink style</s>", "content_lora": "content.safetensors",
        "style_lora": "style.safetensors", "content_strength": 0.8, "style_strength": 0.8,
        "layer_sets": {"layer_sets": "all"}, "method": {"method": "craft"},
    }  # fmt: skip
    edits = {
        "first run": {},
        "prompt edit": {"prompt": "<c>a cat</c> in <s>ink style</s>"},
        "strength edit": {"content_strength": 0.6},
        "method edit": {"method": {"method": "composite"}},
        "file changed": {"style_lora": "another_style.safetensors"},
    }
    clip, before = TextEncoder(), None
    for step, edit in edits.items():
        settings |= edit
        elapsed, bytes_held, after = timed(partial(routed, model, clip, settings))
        yield step, elapsed, bytes_held
        before = after
    assert before is not None


def routed(model, clip, settings):
    with torch.inference_mode():
        found = Router.execute(model, clip, **settings).result[0]
        comfy.model_management.load_models_gpu(found.get_nested_additional_models())
    return found


def host(model):
    """The same of the host's loader nodes, one after another. A prompt edit runs none of them, and
    they have no methods."""
    first, second = nodes.LoraLoaderModelOnly(), nodes.LoraLoaderModelOnly()

    def both(strength: float):
        (one,) = first.load_lora_model_only(model, "content.safetensors", strength)
        return one, second.load_lora_model_only(one, "style.safetensors", 0.8)[0]

    elapsed, bytes_held, _ = timed(partial(both, 0.8))
    yield "first run", elapsed, bytes_held
    elapsed, bytes_held, (one, _) = timed(partial(both, 0.6))
    yield "strength edit", elapsed, bytes_held
    changed = partial(second.load_lora_model_only, one, "another_style.safetensors", 0.8)
    elapsed, bytes_held, _ = timed(changed)
    yield "file changed", elapsed, bytes_held


def host_patching() -> dict[str, float]:
    """Seconds in which the host merges both LoRAs into all weights, by step."""
    shapes = Counter(layers().values())
    total = 0.0
    for (out, inputs), count in shapes.items():
        path = next(path for path, shape in layers().items() if shape == (out, inputs))
        key = f"lora_unet_{path.replace('.', '_')}"
        found = []
        for name in FILES[:2]:
            place = folder_paths.get_full_path("loras", f"{name}.safetensors")
            with safetensors.safe_open(place, "pt") as file:
                state = {name: file.get_tensor(name) for name in file.keys() if key in name}
            adapter = comfy.lora.load_lora(state, {key: path})[path]
            found.append((0.8, adapter, 1.0, None, None))
        weight = torch.randn(out, inputs).half()
        comfy.lora.calculate_weight(found[:1], weight.float(), path)
        start = time.perf_counter()
        comfy.lora.calculate_weight(found, weight.float(), path).half()
        total += count * (time.perf_counter() - start)
    return dict.fromkeys(("first run", "strength edit", "file changed"), total)


def timed(work: Callable):
    """(seconds, most bytes held at once beyond those held before, what the work gives)."""
    gc.collect()
    before = reset_peak()
    start = time.perf_counter()
    result = work()
    elapsed = time.perf_counter() - start
    return elapsed, peak() - before, result


def reset_peak() -> int:
    if not STATUS.exists():
        return 0
    Path("/proc/self/clear_refs").write_text("5")
    return peak()


def peak() -> int:
    if not STATUS.exists():
        return 0
    (line,) = (one for one in STATUS.read_text().splitlines() if one.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    main()
