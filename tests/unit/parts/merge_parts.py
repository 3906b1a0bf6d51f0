"""LoRAs to merge on the toy network, and what a merge does to its weights, written densely."""

from __future__ import annotations

import copy
from dataclasses import replace

import torch
from toy_denoiser import TEXT, ToyDenoiser, dataset

from craft_core.training import Dataset, MergePart, Merging, Prompt
from craft_core.types import Branch, Factors

LINEAR, OTHER_LINEAR, STRIDED, FIRST = "blocks.0.q", "blocks.0.out", "middle_block.0", "conv_in"
ADAPTED = {  # by LoRA: layers that both adapt, a slice of one in the second, and one apart
    "dog": (LINEAR, STRIDED, FIRST),
    "cat": (LINEAR, STRIDED),
    "ink": (LINEAR, OTHER_LINEAR, STRIDED),
}
ROLES = {"dog": "content", "cat": "content", "ink": "style"}
SLICE = (2, 4)


def factors(shape, seed, rank, scale=0.5, rows=None):
    generator = torch.Generator().manual_seed(seed)
    fan_in = torch.Size(shape[1:]).numel()
    down = torch.randn(rank, *shape[1:], generator=generator) / fan_in**0.5
    out = rows[1] if rows else shape[0]
    return Factors(down, torch.randn(out, rank, generator=generator) / rank**0.5, scale, rows)


def pictures(seed, count=2):
    """Pictures of one condition each LoRA."""
    given = dataset(count, seed)
    condition = torch.randn(TEXT, generator=torch.Generator().manual_seed(seed))
    examples = tuple(
        replace(one, condition=condition, caption=f"caption {seed}") for one in given.examples
    )
    return Dataset(examples, given.empty)


def part(name, strength=1.0, rank=4):
    shapes, seed = ToyDenoiser().layers, 100 * list(ADAPTED).index(name)
    layers = {p: (factors(shapes[p], seed + i, rank),) for i, p in enumerate(ADAPTED[name])}
    if name == "ink":  # a slice of the linear, with a scale of its own beside the whole
        layers[LINEAR] += (factors(shapes[LINEAR], seed + 50, 2, scale=2.0, rows=SLICE),)
    return MergePart(Branch(name, ROLES[name], layers, strength), pictures(seed), f"sha of {name}")


def merging(names=("dog", "ink"), strengths=(0.7, 1.3, 0.9), **changes):
    parts = tuple(part(name, strength) for name, strength in zip(names, strengths, strict=False))
    given = {
        "fused": tuple(prompt(i) for i, name in enumerate(names) if ROLES[name] == "content"),
        "content_layers": frozenset({STRIDED}),
        "style_layers": frozenset({LINEAR}),
    }
    return Merging(parts, **{**given, **changes})


def prompt(seed):
    generator = torch.Generator().manual_seed(7000 + seed)
    return Prompt(f"fused {seed}", torch.randn(TEXT, generator=generator))


def dense(one: Factors, shape) -> torch.Tensor:
    """dW (float64) of the whole layer, entry by entry from the definition."""
    out, inner = one.up.shape[0], one.down.flatten(1).double()
    start = one.rows[0] if one.rows else 0
    delta = torch.zeros(shape[0], inner.shape[1], dtype=torch.float64)
    for row in range(out):
        for k in range(one.rank):
            delta[start + row] += one.scale * one.up[row, k].double() * inner[k]
    return delta.reshape(shape)


def with_weights(denoiser: ToyDenoiser, deltas) -> ToyDenoiser:
    """The same toy with {path: delta} added to its weights."""
    other = copy.copy(denoiser)
    other.network = copy.deepcopy(denoiser.network)
    for path, delta in deltas.items():
        other.network.get_submodule(path).weight.data += delta.to(denoiser.dtype)
    return other


def added(*tables):
    """The sum of tables {path: delta}."""
    total = {}
    for table in tables:
        for path, delta in table.items():
            total[path] = total.get(path, 0) + delta
    return total


def deltas(given: MergePart):
    """A LoRA's dW of every layer at its strength."""
    shapes = ToyDenoiser().layers
    return {
        path: given.branch.strength * sum(dense(one, shapes[path]) for one in updates)
        for path, updates in given.branch.layers.items()
    }


def randomised(recipe, seed=3):
    """Every mask of a recipe at random numbers around 1, in float64."""
    generator = torch.Generator().manual_seed(seed)
    for mask in recipe.parameters().values():
        noise = torch.randn(mask.shape, generator=generator, dtype=torch.float64)
        mask.data = 1 + 0.5 * noise
    return recipe


def slopes_match(recipe, draw, seed=1, step=1e-5):
    """[(name, slope by differences, slope by gradient)] along a random direction each."""

    def loss():
        for mask in recipe.parameters().values():
            mask.grad = None
        return sum(recipe.backward(draw, 1.0).values())

    loss()
    gradients = {name: mask.grad.clone() for name, mask in recipe.parameters().items()}
    found = []
    for name, mask in recipe.parameters().items():
        generator = torch.Generator().manual_seed(seed)
        way = torch.randn(mask.shape, generator=generator, dtype=torch.float64)
        before = mask.data.clone()
        mask.data = before + step * way
        above = loss()
        mask.data = before - step * way
        below = loss()
        mask.data = before
        found.append((name, (above - below) / (2 * step), (gradients[name] * way).sum().item()))
    return found
