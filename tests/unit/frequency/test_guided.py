"""App. A.1's joining of two bands: the literal formula, and its neutral settings."""

from __future__ import annotations

import pytest
import torch
from rounding import allowed, units

from craft_core.errors import CraftError
from craft_core.frequency import DOMAINS, blend, inverse, low_high, masks, transform

CUTOFFS = (0.0, 0.1, 0.25, 0.8, 1.0)
SHAPES = ((2, 4, 16, 16), (1, 4, 9, 14), (1, 16, 3, 7, 10))


def latent(shape: tuple[int, ...], seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def formula(z_c, z_s, cutoff, domain):
    """F^-1(M_low F(z_c) + M_high F(z_s))"""
    low, high = (mask.to(z_c.dtype) for mask in masks(z_c.shape[-2:], cutoff, domain))
    return inverse(low * transform(z_c, domain) + high * transform(z_s, domain), domain)


@pytest.mark.parametrize("domain", DOMAINS)
@pytest.mark.parametrize("cutoff", CUTOFFS)
@pytest.mark.parametrize("shape", SHAPES)
def test_blend_is_the_papers_formula(domain, cutoff, shape):
    z_c, z_s = latent(shape, 1), latent(shape, 2)
    found = blend(z_c, z_s, cutoff, domain)
    literal = [
        formula(z_c.to(dtype), z_s.to(dtype), cutoff, domain)
        for dtype in (torch.float32, torch.float64)
    ]
    assert found.shape == z_c.shape
    assert units(found, literal[0]) <= allowed(*literal)


@pytest.mark.parametrize("domain", DOMAINS)
@pytest.mark.parametrize("cutoff", CUTOFFS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_blending_a_latent_with_itself_changes_no_bit(domain, cutoff, dtype):
    z = latent((2, 4, 9, 14), 3).to(dtype)
    assert torch.equal(blend(z, z, cutoff, domain), z)


@pytest.mark.parametrize("domain", DOMAINS)
def test_the_end_stops_hand_out_one_side_bitwise(domain):
    z_c, z_s = latent((1, 4, 8, 8), 1), latent((1, 4, 8, 8), 2)
    assert torch.equal(blend(z_c, z_s, 1.0, domain), z_c)
    assert torch.equal(blend(z_c, z_s, 0.0, domain), z_s)


@pytest.mark.parametrize("domain", DOMAINS)
def test_the_two_bands_of_one_image_blend_back_into_it(domain):
    """Low of x from the left, high of x from the right: what splitting took apart."""
    z_c, z_s = latent((1, 4, 8, 10), 1), latent((1, 4, 8, 10), 2)
    low, _ = low_high(z_c, 0.3, domain)
    _, high = low_high(z_s, 0.3, domain)
    assert (blend(z_c, z_s, 0.3, domain) - (low + high)).abs().max() < 2e-6


@pytest.mark.parametrize("domain", DOMAINS)
def test_blending_a_step_is_stepping_the_blend(domain):
    """Why denoised predictions may be blended: a x + b D commutes with the masks."""
    x, d_c, d_s = (latent((1, 4, 8, 8), seed) for seed in (1, 2, 3))
    a, b = 0.8, 0.35
    after = blend(a * x + b * d_c, a * x + b * d_s, 0.3, domain)
    assert (after - (a * x + b * blend(d_c, d_s, 0.3, domain))).abs().max() < 2e-6


@pytest.mark.parametrize("domain", DOMAINS)
def test_images_in_a_batch_do_not_touch_each_other(domain):
    z_c, z_s = latent((3, 4, 8, 8), 1), latent((3, 4, 8, 8), 2)
    alone = blend(z_c, z_s, 0.3, domain)
    z_c[1] = float("nan")
    assert torch.equal(blend(z_c, z_s, 0.3, domain)[::2], alone[::2])


def test_a_cutoff_outside_0_1_is_refused():
    with pytest.raises(CraftError, match="from 0 to 1"):
        blend(latent((1, 4, 8, 8), 1), latent((1, 4, 8, 8), 2), 1.5, "dct")
