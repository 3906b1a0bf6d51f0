"""What an edit adds to a convolution in groups is what its dW adds to the weight."""

from dataclasses import replace

import pytest
import torch
from adapter_samples import SAMPLES, variants
from craft_lora_pack.craft_core.lora import parse_lora
from craft_lora_pack.craft_core.training.denoiser import LayerCall
from craft_lora_pack.craft_core.types import Factors
from torch.nn import functional


def call_of(groups: int, generator: torch.Generator) -> LayerCall:
    """Of a convolution of 8 channels."""
    x = torch.randn(2, 8, 5, 5, generator=generator)
    weight = torch.randn(8, 8 // groups, 3, 3, generator=generator)

    def product(inputs, other):
        return functional.conv2d(inputs, other, padding=1, groups=groups)

    return LayerCall(x, product(x, weight), None, lambda: weight, product, True, groups > 1)


@pytest.mark.parametrize("groups", [1, 2, 8])
@pytest.mark.parametrize("rank", [1, 3, 8])
@pytest.mark.parametrize("rows", [None, (2, 4)])
def test_an_update_adds_what_its_dw_adds_to_the_weight(groups, rank, rows):
    generator = torch.Generator().manual_seed(rank)
    call = call_of(groups, generator)
    out = rows[1] if rows else 8
    down = torch.randn(rank, 8 // groups, 3, 3, generator=generator)
    up = torch.randn(out, rank, generator=generator)
    whole = call.weight().clone()
    start = rows[0] if rows else 0
    whole[start : start + out] += (up @ down.flatten(1)).unflatten(1, down.shape[1:])
    added = (call.apply(whole) - call.output)[:, start : start + out]
    own = call.added(Factors(down, up, 0.5, rows))
    torch.testing.assert_close(own, added, rtol=1e-4, atol=1e-4)
    if rows is None:
        torch.testing.assert_close(call.low_rank(down, up), added, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("groups", [1, 2, 8])
@pytest.mark.parametrize("kind", SAMPLES)
def test_every_form_of_a_kind_adds_in_groups_what_its_dw_does(kind, groups):
    call = call_of(groups, torch.Generator().manual_seed(1))
    shape = tuple(call.weight().shape)
    for name in variants(kind, shape):
        sample = SAMPLES[kind][name](shape, 3)
        (update,) = parse_lora(sample.named("lora_unet_a"), {}, {"a": shape}).layers["a"]
        update = replace(update, **update.taken(call.weight))
        wanted = call.apply(sample.on(call.weight()))
        found = update.scale * call.added(update)
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
