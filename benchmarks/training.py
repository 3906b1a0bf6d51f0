"""What training costs: counted for SDXL on a 24 GB card, measured on a tiny model.

    python run.py bench training [--sizes 1024 512] [--rounds 5] [--threads 1]

Counted: our own training step runs on the host's own SDXL UNet with fake tensors, which have a
shape but no values. The dtypes are those of a GPU: weights fp16, activations bf16, norms float32
under autocast, fused attention. Times follow from FLOPs at a throughput that is assumed, not
measured. Measured: milliseconds of whole steps on this CPU, taking turns in one process.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

ROOT = Path(__file__).resolve().parent.parent
sys.path += [str(ROOT), str(ROOT / "tests" / "host" / "parts")]

from launcher.run.inside_host import enter_host, load_pack, temporary_base  # noqa: E402

_BASE = temporary_base()
enter_host(Path(os.environ["COMFYUI_PATH"]), Path(_BASE.name), cpu=True)
load_pack()

import comfy.ldm.models.autoencoder  # noqa: E402
import comfy.model_patcher  # noqa: E402
import comfy.supported_models  # noqa: E402
import safetensors.torch  # noqa: E402
import tiny  # noqa: E402
import torch  # noqa: E402
import torchvision  # noqa: E402
from craft_lora_pack.comfy_adapter.train import denoiser as adapter  # noqa: E402
from craft_lora_pack.comfy_adapter.train.precision import AUTO, decide  # noqa: E402
from craft_lora_pack.craft_core.families import FAMILIES  # noqa: E402
from craft_lora_pack.craft_core.routing import PRESETS  # noqa: E402
from craft_lora_pack.craft_core.routing.layer_sets import resolve  # noqa: E402
from craft_lora_pack.craft_core.training import (  # noqa: E402
    Dataset,
    Edit,
    Example,
    Pairs,
    Pictures,
    RoleLayers,
    Training,
    basis,
    lora,
)
from craft_lora_pack.craft_core.training.losses import Noised, denoising_loss  # noqa: E402
from craft_lora_pack.craft_core.training.perceptual import PerceptualLoss, read_vgg  # noqa: E402
from craft_lora_pack.craft_core.training.recipes.basis import projections  # noqa: E402
from craft_lora_pack.craft_core.training.recipes.lora import branch_edit  # noqa: E402
from torch import Tensor  # noqa: E402
from torch._subclasses.fake_tensor import FakeTensorMode  # noqa: E402
from torch.nn import functional  # noqa: E402

from benchmarks.parts.counting import Cost, price, qr_flops  # noqa: E402

CARD = "RTX 4090, 165 TFLOPS dense bf16"
THROUGHPUT = 0.40 * 165e12  # FLOPs per second: an assumption, see docs/training.md
OVERHEAD = 1.0e9  # bytes assumed for CUDA's context, kernels' workspaces and fragmentation
LORA_STEPS = 1000
BASIS_PACES = ((5000, 8, 1), (1000, 1, 4))  # (steps, batch, accumulate): the paper's, a cheaper one
# What the host finds in a checkpoint of SDXL.
SDXL = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 320,
    "num_res_blocks": [2, 2, 2],
    "channel_mult": [1, 2, 4],
    "transformer_depth": [0, 0, 2, 2, 10, 10],
    "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10],
    "transformer_depth_middle": 10,
    "context_dim": 2048,
    "num_head_channels": 64,
    "use_spatial_transformer": True,
    "use_linear_in_transformer": True,
    "num_classes": "sequential",
    "adm_in_channels": 2816,
    "legacy": False,
    "use_temporal_attention": False,
}
SDXL_VAE = {
    "double_z": True,
    "z_channels": 4,
    "resolution": 256,
    "in_channels": 3,
    "out_ch": 3,
    "ch": 128,
    "ch_mult": [1, 2, 4, 4],
    "num_res_blocks": 2,
    "attn_resolutions": [],
    "dropout": 0.0,
}
ANY = Dataset((Example(torch.zeros(4, 8, 8), None),))  # recipes ask for pictures; unused


def main() -> None:
    options = _options()
    torch.set_num_threads(options.threads)
    vgg = _blank_vgg()
    with on_a_pretended_gpu():
        _print_sizes()
        for size in options.sizes:
            _print_passes(size)
        _print_perceptual(options.sizes, vgg)
    _print_measured(options.rounds)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--sizes", type=int, nargs="*", default=[1024, 512], help="in pixels")
    parser.add_argument("--rounds", type=int, default=5, help="of what is measured")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    return parser.parse_args()


# What is trained


@dataclass(frozen=True)
class Trained:
    """One thing to train. parameters: how many numbers are learned. standing: bytes that are held
    between steps, beside the model. file: bytes. passes: of one picture, a picture or pair."""

    name: str
    edits: Mapping[str, Edit]
    parameters: int
    standing: int
    file: int
    passes: int
    extra: int = 0  # FLOPs a step, however many pictures it has


def lora_of(denoiser, preset: str, role: str, rank: int) -> Trained:
    sets = resolve(preset, denoiser.layers)
    place = RoleLayers(role, sets.content if role == "content" else sets.style, preset)
    recipe = lora(denoiser, Pictures(ANY), place, rank=rank).recipe
    count = _count(recipe.parameters().values())
    edits = {path: branch_edit(recipe.factors(path)) for path in recipe.down}
    # float32: the parameters and AdamW's two moments. Gradients are counted in a pass.
    return Trained(f"LoRA, {preset} {role}, rank {rank}", edits, count, 12 * count, 2 * count, 1)


def basis_of(denoiser) -> Trained:
    recipe = basis(denoiser, Pairs(ANY, ANY), "").recipe
    matrices = recipe.matrices["content"]
    q = {path: m.detach().requires_grad_(True) for path, m in matrices.items()}
    count = _count(recipe.parameters().values())
    turning = 2 * sum(qr_flops(*matrix.shape) for matrix in matrices.values())
    # float32: M, two moments, Q; and the gradient of one side's Q while the other side runs.
    standing = (12 + 4 + 2) * count
    edits = projections(q, "output")
    return Trained("basis, 64 to 4", edits, count, standing, 4 * count, 2, turning)


def _count(tensors) -> int:
    return sum(tensor.numel() for tensor in tensors)


# The pretended GPU


@contextmanager
def on_a_pretended_gpu() -> Iterator[None]:
    """Fake tensors that count as on the CPU, with the dtypes and the attention of a GPU."""

    def in_float32(norm: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def run(*args, **kwargs):
            if not torch.is_autocast_enabled("cpu"):
                return norm(*args, **kwargs)
            return norm(*map(_widened, args), **{k: _widened(v) for k, v in kwargs.items()})

        return run

    with ExitStack() as stack:
        stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        stack.enter_context(mock.patch.object(adapter, "explicit_attention", _fused_attention))
        for name in ("group_norm", "layer_norm"):  # CUDA's autocast widens them, the CPU's does not
            norm = in_float32(getattr(functional, name))
            stack.enter_context(mock.patch.object(functional, name, norm))
        yield


def _widened(value):
    return value.float() if isinstance(value, Tensor) else value


def _fused_attention(_original, q: Tensor, k: Tensor, v: Tensor, heads: int, *_args, **_kwargs):
    q, k, v = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (q, k, v))
    out = torch.ops.aten._scaled_dot_product_flash_attention(q, k, v)[0]
    return out.transpose(1, 2).flatten(2)


def sdxl(checkpointing: bool) -> adapter.HostDenoiser:
    """The host's SDXL as `opened` would give it: weights fp16, cast to bf16 layer by layer."""
    config = comfy.supported_models.SDXL(dict(SDXL))
    config.set_inference_dtype(torch.float16, torch.bfloat16)
    model = config.get_model({}, "", device=tiny.CPU).requires_grad_(False)
    gradients = adapter.gradients_through(model.diffusion_model, tiny.CPU, checkpointing)
    patcher = comfy.model_patcher.ModelPatcher(model, tiny.CPU, tiny.CPU)
    return adapter.HostDenoiser(patcher, None, torch.bfloat16, gradients)


def model_bytes(denoiser) -> int:
    return 2 * _count(denoiser._model.diffusion_model.parameters())


def pass_cost(denoiser, trained: Trained, size: int, batch: int = 1) -> Cost:
    """One forward and backward pass of a batch of pictures, size x size pixels."""
    latent = torch.zeros(batch, 4, size // 8, size // 8)
    condition = [[torch.zeros(1, 77, 2048), {"pooled_output": torch.zeros(1, 1280)}]]
    ready = Noised(latent, latent, torch.ones(batch), [condition] * batch)
    with denoiser.edited(trained.edits):
        return price(lambda: denoising_loss(denoiser, ready)[0])


# Counted


def _print_sizes() -> None:
    denoiser = sdxl(False)
    weights = model_bytes(denoiser)
    print(f"SDXL's UNet: {weights / 2e6:.0f} M parameters, {_gb(weights)} GB in fp16")
    _section("Counted: what is learnt")
    rows = []
    for preset in (
        one.key for one in FAMILIES["sdxl"].presets if PRESETS[one.key].rule == "patterns"
    ):
        for role in ("content", "style"):
            rows += [_size_row(lora_of(denoiser, preset, role, rank)) for rank in (16, 64)]
    learnt = basis_of(denoiser)
    _table(
        ["trained", "layers", "M parameters", "held between passes, GB", "file, MB"],
        [*rows, _size_row(learnt)],
    )
    print(f"\nQR of the basis and its backward pass: {learnt.extra / 1e12:.2f} TFLOP a step")


def _size_row(one: Trained) -> list[str]:
    count = f"{one.parameters / 1e6:.1f}"
    return [one.name, str(len(one.edits)), count, _gb(one.standing), f"{one.file / 1e6:.0f}"]


def _print_passes(size: int) -> None:
    _section(f"Counted: one step at {size} x {size}, batch 1 (a basis: two passes, one a side)")
    rows, costs = [], {}
    for checkpointing in (False, True):
        denoiser = sdxl(checkpointing)
        weights = model_bytes(denoiser)
        for trained in (
            lora_of(denoiser, "craft-paper", "content", 16),
            lora_of(denoiser, "craft-paper", "style", 16),
            basis_of(denoiser),
        ):
            cost = pass_cost(denoiser, trained, size)
            costs[trained.name, checkpointing] = trained, cost
            rows.append(_pass_row(trained, cost, checkpointing, weights))
    _table(
        ["trained", "checkpointing", "forward, TFLOP", "step, TFLOP", "kept for backward, GB",
         "peak beside weights, GB", "peak in all, GB", "s/step"],
        sorted(rows),
    )  # fmt: skip
    _print_totals(size, costs)


def _pass_row(trained: Trained, cost: Cost, checkpointing: bool, weights: int) -> list[str]:
    step = trained.passes * cost.step + trained.extra
    beside = trained.standing + cost.peak
    return [
        trained.name,
        "yes" if checkpointing else "no",
        f"{cost.forward / 1e12:.2f}",
        f"{step / 1e12:.1f}",
        _gb(cost.kept),
        _gb(beside),
        _gb(weights + beside + OVERHEAD),
        f"{step / THROUGHPUT:.2f}",
    ]


def _print_totals(size: int, costs: Mapping[tuple[str, bool], tuple[Trained, Cost]]) -> None:
    _section(f"Counted: a whole training at {size} x {size}, checkpointing, in hours")
    rows = []
    for (name, checkpointing), (trained, cost) in costs.items():
        if not checkpointing:
            continue
        paces = BASIS_PACES if trained.passes == 2 else ((LORA_STEPS, 1, 1),)
        for steps, batch, accumulate in paces:
            passes = trained.passes * batch * accumulate
            flops = steps * (passes * cost.step + accumulate * trained.extra)
            hours = flops / THROUGHPUT / 3600
            rows.append([name, str(steps), str(batch), str(accumulate), f"{hours:.1f}"])
    _table(["trained", "steps", "batch", "accumulate", "hours"], rows)
    name = next(name for name, _ in costs if name.startswith("basis"))
    denoiser = sdxl(True)
    trained = basis_of(denoiser)
    cost = pass_cost(denoiser, trained, size, batch=8)
    whole = model_bytes(denoiser) + trained.standing + cost.peak + OVERHEAD
    print(f"\n{name}, batch 8 with checkpointing: peak in all {_gb(whole)} GB")


def _print_perceptual(sizes: Sequence[int], vgg: PerceptualLoss) -> None:
    _section("Counted: the perceptual term of one picture (VAE bf16, VGG-19 float32), each pass")
    decode, rows = _decoder(), []
    for size in sizes:
        latent = torch.zeros(1, 4, size // 8, size // 8, requires_grad=True)

        def loss(latent: Tensor = latent) -> Tensor:
            with torch.no_grad():
                target = decode(latent)
            return vgg(decode(latent), target)

        cost = price(loss)
        times = f"{cost.step / THROUGHPUT:.2f}"
        flops = f"{cost.step / 1e12:.1f}"
        rows.append([f"{size} x {size}", flops, _gb(cost.kept), _gb(cost.peak), times])
    _table(["pictures", "TFLOP", "kept for backward, GB", "peak, GB", "s"], rows)


def _decoder() -> Callable[[Tensor], Tensor]:
    network = comfy.ldm.models.autoencoder.AutoencoderKL(ddconfig=SDXL_VAE, embed_dim=4)
    for parameter in network.requires_grad_(False).parameters():
        parameter.data = parameter.data.bfloat16()
    for module in network.modules():
        if hasattr(module, "optimized_attention"):
            module.optimized_attention = _one_head
    gradients = adapter.gradients_through(network, tiny.CPU, checkpointing=True)

    def decode(latent: Tensor) -> Tensor:
        pixels = gradients.run(lambda: network.decode(latent.bfloat16()))
        return ((pixels.float() + 1) / 2).clamp(0, 1)

    return decode


def _one_head(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """(B, C, H, W) each; a head this wide is the memory-efficient kernel's on a GPU."""
    wide = (t.flatten(2).transpose(1, 2)[:, None].contiguous() for t in (q, k, v))
    attention = torch.ops.aten._scaled_dot_product_efficient_attention
    out = attention(*wide, None, compute_log_sumexp=True)[0]
    return out[:, 0].transpose(1, 2).reshape(q.shape)


def _blank_vgg() -> PerceptualLoss:
    features = torchvision.models.vgg19(weights=None).features.state_dict()
    blank = {f"features.{key}": torch.zeros_like(value) for key, value in features.items()}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vgg.safetensors"
        safetensors.torch.save_file(blank, path)
        return read_vgg(path)


# Measured


def _print_measured(rounds: int) -> None:
    threads = torch.get_num_threads()
    _section(f"Measured: a tiny SDXL on this CPU, float32, {threads} threads, {rounds} rounds")
    with ExitStack() as stack:
        _print_times(rounds, {
            f"{name}, checkpointing {'on' if on else 'off'}": training
            for on in (False, True)
            for name, training in _tiny_trainings(stack, on).items()
        })  # fmt: skip
    chosen = decide(AUTO, tiny.CPU)
    _section(f"Measured: the same in both precisions; auto: {chosen.name}, {chosen.why}")
    with ExitStack() as stack:
        _print_times(rounds, {
            f"{name}, {precision}": training
            for precision in ("fp32", "bf16")
            for name, training in _tiny_trainings(stack, False, precision).items()
        })  # fmt: skip


def _print_times(rounds: int, ways: Mapping[str, Training]) -> None:
    """Time whole steps of each, taking turns."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(rounds + 1):
        for name, training in ways.items():
            start = time.perf_counter()
            training.advance()
            if turn:  # the first round warms up
                seconds[name].append(time.perf_counter() - start)
    first = next(iter(seconds.values()))
    rows = []
    for name, values in seconds.items():
        ratio = statistics.median(a / b for a, b in zip(values, first, strict=True))
        rows.append([name, f"{1000 * statistics.median(values):.0f}", f"{ratio:.2f}"])
    _table(["a step of", "ms (median)", "x the first (median of rounds)"], rows)


def _tiny_trainings(
    stack: ExitStack, checkpointing: bool, precision: str = "fp32"
) -> dict[str, Training]:
    model = tiny.sdxl(model_channels=64, context_dim=128)
    opened = adapter.open_denoiser(model, precision=precision, checkpointing=checkpointing)
    denoiser = stack.enter_context(opened)
    condition = tiny.conditioning(1, 77, context=128)
    data = Dataset((Example(tiny.latent(1, 32, seed=3)["samples"][0], condition),), condition)
    place = RoleLayers("content", frozenset(denoiser.layers))
    options = {"steps": 10_000, "batch_size": 1}
    return {
        "LoRA of rank 16, all layers": lora(denoiser, Pictures(data), place, **options),
        "basis of ranks 16 to 4": basis(
            denoiser, Pairs(data, data), "", r_max=16, r_min=4, **options
        ),
    }


# Printing


def _gb(count: float) -> str:
    return f"{count / 1e9:.2f}"


def _section(title: str) -> None:
    print(f"\n### {title}\n", flush=True)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    rule = ["---"] * len(header)
    for row in (header, rule, *rows):
        print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
