"""The band split against its definition, two independent libraries, and the laws it promises."""

from __future__ import annotations

import math

import kornia
import pytest
import scipy.fft
import torch
from rounding import units

from craft_core.errors import CraftError
from craft_core.frequency import DOMAINS, inverse, low_high, low_pass, masks, transform

CUTOFFS = (0.0, 1e-6, 0.03, 0.25, 0.7, 1.0)
SHAPES = ((8, 8), (7, 12), (1, 5), (33, 9))


def image(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    return (a - b).abs().max().item()


@pytest.mark.parametrize("domain", DOMAINS)
@pytest.mark.parametrize("cutoff", CUTOFFS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_low_plus_high_gives_the_image_back(domain, cutoff, shape, dtype):
    x = image(2, 3, *shape, dtype=dtype)
    low, high = low_high(x, cutoff, domain)
    assert low.dtype == high.dtype == dtype
    assert low.shape == high.shape == x.shape
    rounding = torch.finfo(dtype).eps * torch.maximum(low.abs(), high.abs()).double()
    assert ((low.double() + high.double() - x.double()).abs() <= rounding).all()


@pytest.mark.parametrize("domain", DOMAINS)
@pytest.mark.parametrize("shape", SHAPES)
def test_the_masks_lie_in_0_1_and_sum_to_one(domain, shape):
    for cutoff in CUTOFFS:
        low, high = masks(shape, cutoff, domain)
        assert low.shape == high.shape == shape
        assert torch.equal(low + high, torch.ones(shape, dtype=torch.float64))
        assert low.min() >= 0 and low.max() <= 1


@pytest.mark.parametrize("domain", DOMAINS)
@pytest.mark.parametrize("shape", SHAPES)
def test_the_transform_is_orthonormal(domain, shape):
    x = image(3, *shape, dtype=torch.float64)
    coefficients = transform(x, domain)
    assert coefficients.shape == x.shape
    energy = coefficients.abs().square().sum(dim=(1, 2))
    assert distance(energy, x.square().sum(dim=(1, 2))) < 1e-10
    assert distance(inverse(coefficients, domain), x) < 1e-12


@pytest.mark.parametrize("shape", SHAPES)
def test_the_dct_is_scipys(shape):
    x = image(2, *shape, dtype=torch.float64)
    expected = torch.from_numpy(scipy.fft.dctn(x.numpy(), axes=(1, 2), norm="ortho"))
    assert distance(transform(x, "dct"), expected) < 1e-12


@pytest.mark.parametrize("cutoff", [0.15, 0.2])
def test_the_low_pass_is_kornias_gaussian_blur(cutoff):
    """Of the width whose transfer function is 1/2 at the cutoff; dct away from the borders.

    At higher cutoffs kornia's sampled kernel is too narrow to have that transfer function.
    """
    x = image(1, 2, 60, 47)
    sigma = math.sqrt(2 * math.log(2)) / (math.pi * cutoff)
    blurred = kornia.filters.gaussian_blur2d(x, (31, 31), (sigma, sigma), "circular")
    assert distance(low_pass(x, cutoff, "fft"), blurred) < 2e-5
    inner = (..., slice(15, -15), slice(15, -15))
    assert distance(low_pass(x, cutoff, "dct")[inner], blurred[inner]) < 2e-5


def wave(length: int, index: int, domain: str) -> torch.Tensor:
    """A basis wave along an axis, at the fraction 2 index / length (fft) or index / length."""
    position = torch.arange(length, dtype=torch.float64)
    if domain == "dct":
        return torch.cos(math.pi * (position + 0.5) * index / length)
    return torch.cos(2 * math.pi * position * index / length)


@pytest.mark.parametrize(("domain", "per_cutoff"), [("dct", 20), ("fft", 10)])
def test_a_wave_at_the_cutoff_is_halved_whatever_its_direction(domain, per_cutoff):
    x = wave(80, per_cutoff, domain).expand(30, 80)  # 1/4 of Nyquist
    for turned in (x, x.T):
        low, high = low_high(turned, 0.25, domain)
        assert distance(low, 0.5 * turned) < 1e-12
        assert distance(high, 0.5 * turned) < 1e-12


@pytest.mark.parametrize("domain", DOMAINS)
def test_the_cutoff_means_the_same_share_of_the_band_at_any_size(domain):
    small, _ = masks((9, 14), 0.3, domain)
    large, _ = masks((18, 28), 0.3, domain)
    assert distance(large[::2, ::2], small) < 1e-15


@pytest.mark.parametrize("domain", DOMAINS)
def test_a_higher_cutoff_never_passes_less(domain):
    found = [masks((10, 13), cutoff, domain)[0] for cutoff in CUTOFFS]
    for less, more in zip(found, found[1:], strict=False):
        assert (more >= less).all()


@pytest.mark.parametrize("domain", DOMAINS)
def test_the_end_stops_are_exact(domain):
    x = image(2, 5, 6)
    low, high = low_high(x, 0.0, domain)
    assert torch.equal(high, x) and not low.any()
    low, high = low_high(x, 1.0, domain)
    assert torch.equal(low, x) and not high.any()


@pytest.mark.parametrize("domain", DOMAINS)
def test_a_flat_image_is_all_content(domain):
    x = torch.full((3, 11, 7), 0.6)
    for cutoff in (1e-6, 0.1, 0.9):
        assert distance(low_pass(x, cutoff, domain), x) < 1e-6


def test_opposite_borders_meet_in_the_fft_and_not_in_the_dct():
    x = torch.zeros(20, 40)
    x[:, -1] = 1.0
    assert low_pass(x, 0.3, "fft")[:, 0].min() > 0.05
    assert low_pass(x, 0.3, "dct")[:, 0].abs().max() < 1e-6


@pytest.mark.parametrize("domain", DOMAINS)
def test_images_in_a_batch_do_not_touch_each_other(domain):
    x = image(3, 4, 9, 10)
    alone = low_pass(x, 0.3, domain)
    x[1] = float("nan")
    found = low_pass(x, 0.3, domain)
    assert torch.equal(found[::2], alone[::2])


@pytest.mark.parametrize("domain", DOMAINS)
def test_a_video_is_split_frame_by_frame(domain):
    video = image(2, 4, 3, 9, 10)
    found = low_pass(video, 0.3, domain)
    frames = [low_pass(video[:, :, frame], 0.3, domain) for frame in range(3)]
    assert units(found, torch.stack(frames, dim=2)) <= 8


@pytest.mark.parametrize("domain", DOMAINS)
@pytest.mark.parametrize("cutoff", CUTOFFS)
def test_the_input_is_not_written_to_and_not_handed_out(domain, cutoff):
    x = image(6, 7)
    before = x.clone()
    low, high = low_high(x, cutoff, domain)
    low += 1
    high += 1
    assert torch.equal(x, before)


@pytest.mark.parametrize("domain", DOMAINS)
def test_the_split_can_be_trained_through(domain):
    x = image(5, 6, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: low_pass(z, 0.3, domain), x)


@pytest.mark.parametrize("cutoff", [-0.01, 1.01, float("nan"), float("inf")])
def test_a_cutoff_outside_0_1_is_refused(cutoff):
    for call in (
        lambda: low_high(image(4, 4), cutoff, "dct"),
        lambda: masks((4, 4), cutoff, "fft"),
    ):
        with pytest.raises(CraftError, match="from 0 to 1"):
            call()


def test_an_unknown_domain_is_refused_by_name():
    with pytest.raises(CraftError, match="'wavelet'.*dct or fft"):
        low_pass(image(4, 4), 0.5, "wavelet")
