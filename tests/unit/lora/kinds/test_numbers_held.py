"""In every form of every kind an update holds about what its file does. What it needs beyond that
it makes while it acts, and no tensor of it is larger than the layer's weight."""

from __future__ import annotations

import math

import pytest
import torch
from adapter_samples import SAMPLES, variants, weight_of
from raw_lora import noise
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from craft_core.lora import parse_lora
from craft_core.lora.cost import multiplications
from craft_core.types import LayerPass

SHAPES = {
    "small": (256, 192),
    "wide": (320, 1024),
    "large": (1024, 1024),
    "conv": (64, 96, 3, 3),
}
CASES = [
    pytest.param(kind, name, rank, shape, id=f"{kind} {name} rank {rank} {label}")
    for kind in SAMPLES
    for label, shape in SHAPES.items()
    for name in variants(kind, shape)
    for rank in (4, 16, 64)
]
every_case = pytest.mark.parametrize(("kind", "name", "rank", "shape"), CASES)
MOST = 1.1
TYPE = torch.bfloat16  # of the file, and of the model


def read(kind, name, rank, shape):
    """(the update, the file's tensors)"""
    sample = SAMPLES[kind][name](shape, 3, rank)
    state = {key: tensor.to(TYPE) for key, tensor in sample.named("lora_unet_a").items()}
    (update,) = parse_lora(state, {}, {"a": shape}).layers["a"]
    return update, state


@every_case
def test_an_update_holds_about_what_its_file_does(kind, name, rank, shape):
    """In the model's type, but for the few numbers of a channel each (a DoRA's magnitudes, a BOFT's
    `rescale`) that are computed with in float32."""
    update, state = read(kind, name, rank, shape)
    in_float32 = sum(update.tensors()[field].numel() for field in update.precise
                     if field in update.tensors())  # fmt: skip
    assert in_float32 <= max(shape[:2])
    held = sum(tensor.numel() for tensor in update.tensors().values())
    assert held <= MOST * sum(tensor.numel() for tensor in state.values())
    for tensor in update.tensors().values():
        if tensor.ndim == 2 and min(tensor.shape) > 1:
            assert not torch.equal(tensor.float(), torch.eye(*tensor.shape))


class Largest(TorchDispatchMode):
    """How many numbers the largest tensor has that is made within it."""

    def __init__(self):
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        given = {one.untyped_storage().data_ptr() for one in args if isinstance(one, torch.Tensor)}
        if isinstance(made, torch.Tensor) and made.untyped_storage().data_ptr() not in given:
            self.numbers = max(self.numbers, made.numel())
        return made


def product(x, weight):
    if weight.ndim == 2:
        return functional.linear(x, weight)
    return functional.conv2d(x, weight, None, 1, 1)


@every_case
def test_what_it_makes_to_act_is_no_larger_than_the_weight(kind, name, rank, shape):
    update, _ = read(kind, name, rank, shape)
    is_convolution = len(shape) > 2
    x = noise(1, shape[1], *(5, 5) * is_convolution).to(TYPE)
    weight = weight_of(shape).to(TYPE)
    update = update.with_tensors(update.taken(lambda: weight.float()))
    update = update.mapped(lambda tensor: tensor.to(TYPE))
    base = product(x, weight)
    again = lambda inputs: product(inputs, weight)  # noqa: E731
    layer = LayerPass(x, base, product, 1 if is_convolution else -1, None, 1.0, again)
    with Largest() as largest:
        update.act(layer, 0.5)
    assert largest.numbers <= max(math.prod(shape), 25 * x.numel(), 25 * base.numel())


@pytest.mark.parametrize("rank", [1, 2, 4, 8, 11, 16, 24])
@pytest.mark.parametrize("shape", [(320, 320), (64, 640), (640, 64), (64, 32, 3, 3)])
def test_a_loha_takes_the_way_of_fewer_multiplications(shape, rank):
    """Low-rank factors of rank r1 r2, or the product as a whole: two products, of r1 and of r2, for
    all tokens together."""
    update, _ = read("LoHa", "plain", rank, shape)
    out, size = shape[0], math.prod(shape[1:])
    whole = out * size * (1 + 2 * rank / 1024)
    assert multiplications(update) == pytest.approx(min(rank**2 * (out + size), whole))


@pytest.mark.parametrize("kind", ["LoRA", "LoHa", "LoKr"])
@pytest.mark.parametrize("rank", [4, 24])
def test_parts_of_a_fused_layer_hold_its_numbers_once(kind, rank):
    """A file's qkv where the model has q, k and v: what they share they share in memory."""
    layers = {f"a.to_{part}": (128, 128) for part in "qkv"}
    state = SAMPLES[kind][next(iter(SAMPLES[kind]))]((384, 128), 3, rank).named(
        "lora_unet_a_to_qkv"
    )
    file = parse_lora(state, {}, layers)
    held = {}
    for (update,) in file.layers.values():
        for tensor in update.tensors().values():
            held[tensor.data_ptr(), tensor.shape] = tensor.numel()
    assert len(file.layers) == 3
    assert sum(held.values()) <= MOST * sum(tensor.numel() for tensor in state.values())
