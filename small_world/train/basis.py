"""Learn a small rank-limited basis of the base model: its directions, one set for each branch.

CRAFT-LoRA (2026), arXiv:2602.18936, Eqs. 1, 2 and 12-16: every layer has two matrices M_c and
M_s (out, rank); Q = qr(M).Q is taken out of the layer's output, y = base(x) - Q Q^T (base(x) -
bias), and learns from the denoising loss, M_c on content pictures and M_s on style pictures, while
||Q_c^T Q_s||_F^2 keeps the two apart. It is a basis for the demo: the full recipe's perceptual
term, its longer warm-up and its 5000 steps are not used here.
"""

import hashlib
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from tqdm import trange

from craft_core.projection import (
    Basis,
    LayerBasis,
    merge,
    orthonormal,
    rank_schedule,
    write_basis,
)
from craft_core.types import ROLES, Role

from ..world import captions
from ..world.objects import TRAINED_OBJECTS
from ..world.render import render, to_tensor_range
from ..world.styles import TRAINED_STYLES
from . import checkpoint
from .diffusion import predict_v, v_loss
from .host import build_model
from .lowrank import ATTENTION
from .text import CaptionEncoder, build_text_model

SHIPPED = Path(__file__).resolve().parents[1] / "models"
CHECKPOINT = Path("checkpoints") / "craft_small_world.safetensors"
BASIS = Path("craft_bases") / "craft_small_world_basis.safetensors"

# The paper's 64 to 4 are for widths of 320 to 1280. Ours are 32 to 128, so a tenth of that: 4
# directions are an eighth of the narrowest layer, and 1 is the least a layer can give.
R_MAX, R_MIN = 4, 1
FIRST_AND_LAST = ("input_blocks.0.0", "out.2")  # conv_in and conv_out keep all they have
PLAIN = "flat"  # the style of content pictures
RATE, WARMUP, DROP = 1e-2, 0.1, 0.1  # warm-up: a share of the steps; drop: of the captions
OVERLAP_WEIGHT = 0.1
PAIRS, JUDGED_PAIRS = 6, 24
JUDGE_SEED = 20_000_003

Subspaces = Mapping[str, Tensor]  # module path -> Q (out, rank), orthonormal


@dataclass(frozen=True)
class Base:
    """The frozen base model and what makes its conditioning out of captions."""

    model: nn.Module
    encode: CaptionEncoder

    @property
    def unet(self) -> nn.Module:
        return self.model.diffusion_model


@dataclass(frozen=True)
class Batch:
    """Images (B, 3, 64, 64) in [-1, 1], context (B, tokens, width) and vector (B, width)."""

    images: Tensor
    context: Tensor
    vector: Tensor


Pairs = Mapping[Role, Batch]


def train(out: Path, seed: int, steps: int) -> Path:
    """Train on `out`'s base model, or the shipped one if it has none; print figures, save."""
    checkpoint_path = out / CHECKPOINT if (out / CHECKPOINT).is_file() else SHIPPED / CHECKPOINT
    print("base model", checkpoint_path)
    base = load_base(checkpoint_path)
    layers = layers_in_order(base)
    ranks = rank_schedule(layers, R_MAX, R_MIN).ranks
    torch.manual_seed(seed)
    matrices = random_matrices(layers, ranks)
    judged = draw_pairs(base, JUDGED_PAIRS, np.random.default_rng(JUDGE_SEED))
    first = subspaces(matrices)
    learn(base, matrices, seed, steps)
    last = subspaces(matrices)
    chance = subspaces(random_matrices(layers, ranks))
    figures = measure(base, judged, first, last, chance)
    for name, value in figures.items():
        print(f"{name}: {value:.4f}")
    details = {"steps": steps, "seed": seed, "pairs_a_step": PAIRS, "rate": RATE}
    details |= {"r_max": R_MAX, "r_min": R_MIN, "overlap_weight": OVERLAP_WEIGHT}
    metadata = {name: str(value) for name, value in details.items()}
    metadata |= {name: f"{value:.5f}" for name, value in figures.items()}
    return _write(out / BASIS, last, _hash(checkpoint_path), metadata)


def load_base(path: Path) -> Base:
    """The base model of a checkpoint, frozen, float32."""
    model, text_model = build_model(), build_text_model()
    checkpoint.read(path, model, text_model)
    model.requires_grad_(False)
    return Base(model, CaptionEncoder(text_model, model))


def layers_in_order(base: Base) -> dict[str, tuple[int, ...]]:
    """Attention linears and 3x3 convolutions: module path -> weight shape, in the order they run.

    The order is the order of one forward call, whatever order the modules are registered in.
    """
    ran: dict[str, tuple[int, ...]] = {}

    def noting(path: str):
        def note(layer: nn.Module, inputs, output) -> None:
            ran[path] = tuple(layer.weight.shape)

        return note

    hooks = [
        layer.register_forward_hook(noting(path))
        for path, layer in base.unet.named_modules()
        if _is_limited(path, layer)
    ]
    context, vector = base.encode([""])
    with torch.no_grad():
        predict_v(base.unet, torch.zeros(1, 3, 64, 64), torch.zeros(1), context, vector)
    for hook in hooks:
        hook.remove()
    return ran


def _is_limited(path: str, layer: nn.Module) -> bool:
    if isinstance(layer, nn.Conv2d):
        return layer.kernel_size == (3, 3) and path not in FIRST_AND_LAST
    return isinstance(layer, nn.Linear) and bool(ATTENTION.search(path))


def random_matrices(
    layers: Mapping[str, tuple[int, ...]], ranks: Mapping[str, int]
) -> dict[Role, dict[str, nn.Parameter]]:
    """M_c and M_s of every layer, (out, rank), with columns of about unit length."""
    return {
        role: {
            path: nn.Parameter(torch.randn(shape[0], ranks[path]) * shape[0] ** -0.5)
            for path, shape in layers.items()
        }
        for role in ROLES
    }


def subspaces(matrices: Mapping[Role, Mapping[str, Tensor]]) -> dict[Role, dict[str, Tensor]]:
    """Q of every M, without gradients."""
    with torch.no_grad():
        return {role: _orthonormal_all(matrices[role]) for role in ROLES}


def _orthonormal_all(matrices: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {path: orthonormal(matrix) for path, matrix in matrices.items()}


def draw_pairs(base: Base, count: int, rng: np.random.Generator) -> Pairs:
    """Contrastive pairs: an object drawn plainly, and another object in a style that is not plain.

    The two pictures of a pair share neither object nor style.
    """
    styles = [name for name in TRAINED_STYLES if name != PLAIN]
    named: dict[Role, list[tuple[str, str]]] = {role: [] for role in ROLES}
    for _ in range(count):
        content, other = rng.choice(TRAINED_OBJECTS, 2, replace=False)
        named["content"].append((str(content), PLAIN))
        named["style"].append((str(other), str(rng.choice(styles))))
    return {role: _drawn(base, named[role], rng) for role in ROLES}


def _drawn(base: Base, named: list[tuple[str, str]], rng: np.random.Generator) -> Batch:
    pictures = [to_tensor_range(render(*pair, int(rng.integers(2**31)))) for pair in named]
    texts = ["" if rng.random() < DROP else captions.plain(*pair) for pair in named]
    return Batch(torch.from_numpy(np.stack(pictures)), *base.encode(texts))


def learn(base: Base, matrices, seed: int, steps: int) -> None:
    """Train M_c and M_s in place; the base model is only read."""
    parameters = [matrix for role in ROLES for matrix in matrices[role].values()]
    # No weight decay: Q does not depend on the length of M.
    optimiser = torch.optim.AdamW(parameters, RATE, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: _rate(step / steps))
    generator = torch.Generator().manual_seed(seed)
    rng = np.random.default_rng(seed)
    with trange(steps, desc="basis") as bar:
        for _ in bar:
            q = {role: _orthonormal_all(matrices[role]) for role in ROLES}
            apart = overlap(q)
            pairs = draw_pairs(base, PAIRS, rng)
            task = sum(denoising_loss(base, pairs[role], q[role], generator) for role in ROLES)
            optimiser.zero_grad(set_to_none=True)
            (task + OVERLAP_WEIGHT * apart).backward()
            optimiser.step()
            schedule.step()
            bar.set_postfix(loss=f"{task.item():.4f}", overlap=f"{apart.item():.3f}")


def _rate(progress: float) -> float:
    """Share of the full rate: a linear warm-up, then a cosine fall to zero."""
    if progress < WARMUP:
        return (progress + 0.01) / (WARMUP + 0.01)
    return 0.5 + 0.5 * math.cos(math.pi * (progress - WARMUP) / (1 - WARMUP))


def denoising_loss(base: Base, batch: Batch, q: Subspaces, generator: torch.Generator) -> Tensor:
    """The v-prediction loss of the base model with these subspaces taken out of its layers."""
    with projected(base.unet, q):
        return v_loss(
            base.unet,
            base.model.model_sampling,
            batch.images,
            batch.context,
            batch.vector,
            generator,
        )


@contextmanager
def projected(unet: nn.Module, q: Subspaces) -> Iterator[None]:
    """Take Q Q^T out of the layers' outputs while the block runs (Eq. 1 as an activation)."""
    hooks = [
        unet.get_submodule(path).register_forward_hook(_removing(basis))
        for path, basis in q.items()
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _removing(q: Tensor):
    """A hook of base(x) - Q Q^T (base(x) - bias): what W - Q Q^T W gives, the bias kept."""

    def remove(layer: nn.Module, inputs, output: Tensor) -> Tensor:
        if isinstance(layer, nn.Conv2d):
            bias = None if layer.bias is None else layer.bias[:, None, None]
            apply, down, up = functional.conv2d, q.T[..., None, None], q[..., None, None]
        else:
            bias, apply, down, up = layer.bias, functional.linear, q.T, q
        linear_part = output if bias is None else output - bias
        return output - apply(apply(linear_part, down), up)

    return remove


def overlap(q: Mapping[Role, Subspaces]) -> Tensor:
    """Mean over layers of ||Q_c^T Q_s||_F^2: 0 where the two are orthogonal, rank where equal."""
    products = [q["content"][path].T @ q["style"][path] for path in q["content"]]
    return torch.stack([product.square().sum() for product in products]).mean()


def measure(base: Base, judged: Pairs, first, last, chance) -> dict[str, float]:
    """Losses on one fixed batch with fixed noise, for both sides, and the overlaps."""
    figures = {}
    for role in ROLES:
        removed = {"nothing_removed": {}, "random_basis": chance[role]}
        removed |= {"first_step": first[role], "last_step": last[role]}
        removed |= {"random_both": _merged(chance), "last_step_both": _merged(last)}
        for name, q in removed.items():
            figures[f"loss_{role}_{name}"] = _judged_loss(base, judged[role], q)
    figures["overlap_first_step"] = overlap(first).item()
    figures["overlap_last_step"] = overlap(last).item()
    return figures


def _merged(q: Mapping[Role, Subspaces]) -> dict[str, Tensor]:
    return {path: merge(q["content"][path], q["style"][path]) for path in q["content"]}


@torch.no_grad()
def _judged_loss(base: Base, batch: Batch, q: Subspaces) -> float:
    generator = torch.Generator().manual_seed(JUDGE_SEED)
    return denoising_loss(base, batch, q, generator).item()


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _write(path: Path, q: Mapping[Role, Subspaces], base_model: str, metadata) -> Path:
    layers = {name: LayerBasis(q["content"][name], q["style"][name]) for name in q["content"]}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_basis(path, Basis(layers, "output", base_model, metadata))
    path.chmod(0o644)
    return path
