"""A Gaussian low-pass with a normalised cutoff, and the residual it leaves.

CRAFT-LoRA (arXiv 2602.18936), Sec. 3.3.2: the low band of an image stands for content, the
residual for style. App. A.1 writes the same split as masks in a frequency transform F.

    M_low(f) = exp(-ln 2 * (f / cutoff)^2),  M_high = 1 - M_low,  f = sqrt(f_y^2 + f_x^2)

f is a fraction of the Nyquist frequency of the grid x lives on (0 the mean, 1 alternating
neighbours), so the same cutoff passes the same share of the band at any size; on a latent grid
8 times coarser than the picture it is a frequency 8 times lower. At f = cutoff both masks are
1/2. The paper gives neither its cutoff nor the gain there; this definition is ours. The two end
stops are exact: cutoff 0 leaves nothing in the low band (not even the mean), cutoff 1
everything.

The domains differ at the borders. "dct" (DCT-II, orthonormal) mirrors the image at its edges:
opposite edges never meet. "fft" (orthonormal DFT) wraps it around: they do.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from ..errors import CraftError

Domain = Literal["dct", "fft"]
DOMAINS: tuple[Domain, ...] = get_args(Domain)


def check_band(cutoff: float, domain: str) -> None:
    """Raise CraftError unless 0 <= cutoff <= 1 and the domain is known."""
    if not 0.0 <= cutoff <= 1.0:  # also refuses NaN
        raise CraftError(
            f"The cutoff is {cutoff}",
            "It is a fraction of the Nyquist frequency, from 0 to 1",
            "Set a value in that range",
        )
    if domain not in _TRANSFORMS:
        raise CraftError(
            f"The frequency domain is {domain!r}",
            f"It can be {' or '.join(DOMAINS)}",
            "Choose one of these",
        )


def masks(shape: tuple[int, int], cutoff: float, domain: Domain) -> tuple[Tensor, Tensor]:
    """M_low and M_high on the coefficients of `transform`; float64, on the CPU.

    shape: (height, width). Returns two tensors (height, width) in [0, 1] whose sum is 1.
    Raises CraftError for a cutoff outside 0..1 or an unknown domain. Source: App. A.1.
    """
    check_band(cutoff, domain)
    if cutoff in (0.0, 1.0):
        low = torch.full(shape, cutoff, dtype=torch.float64)
    else:
        rows, columns = (_gain(length, cutoff, domain) for length in shape)
        low = rows[:, None] * columns[None, :]  # the Gaussian of the radius is separable
    return low, 1.0 - low


def transform(x: Tensor, domain: Domain) -> Tensor:
    """F: orthonormal coefficients of the last two axes; energy is kept (Parseval).

    x: real (..., height, width). Returns the same shape, real for "dct", complex for "fft".
    """
    return _TRANSFORMS[domain].forward(x)


def inverse(coefficients: Tensor, domain: Domain) -> Tensor:
    """F^-1: the real image with these coefficients, (..., height, width)."""
    return _TRANSFORMS[domain].inverse(coefficients)


def low_pass(x: Tensor, cutoff: float, domain: Domain) -> Tensor:
    """F^-1(M_low F(x)) over the last two axes; every leading axis (batch, channel, frame) is apart.

    x: floating (..., height, width), any sizes. Half precision is computed in float32; the
    result has x's dtype and device. Raises CraftError as `masks` does. Source: Sec. 3.3.2.
    """
    check_band(cutoff, domain)
    if cutoff == 0.0:
        return torch.zeros_like(x)
    if cutoff == 1.0:
        return x.clone()
    work = x if x.dtype == torch.float64 else x.float()
    low, _ = masks((x.shape[-2], x.shape[-1]), cutoff, domain)
    coefficients = transform(work, domain)
    return inverse(coefficients * low.to(work.dtype).to(work.device), domain).to(x.dtype)


def low_high(x: Tensor, cutoff: float, domain: Domain) -> tuple[Tensor, Tensor]:
    """Content band and style band of x: the low-pass, and the residual x - low.

    Shapes, dtype and errors as in `low_pass`. low + high gives x back to one rounding of the
    larger of the two. Source: Sec. 3.3.2.
    """
    low = low_pass(x, cutoff, domain)
    return low, x - low


@dataclass(frozen=True)
class _Transform:
    """frequencies: n -> (n,) float64, each coefficient's fraction of Nyquist along an axis."""

    frequencies: Callable[[int], Tensor]
    forward: Callable[[Tensor], Tensor]
    inverse: Callable[[Tensor], Tensor]


def _gain(length: int, cutoff: float, domain: Domain) -> Tensor:
    frequencies = _TRANSFORMS[domain].frequencies(length)
    return torch.exp(-math.log(2.0) * (frequencies / cutoff) ** 2)


def _dct_frequencies(length: int) -> Tensor:
    return torch.arange(length, dtype=torch.float64) / length


def _dct_basis(length: int, like: Tensor) -> Tensor:
    """Orthonormal DCT-II as a matrix (length, length), one basis wave a row.

    A matrix and not an FFT: real arithmetic runs on every device the host supports.
    """
    steps = torch.arange(length, dtype=torch.float64)
    angle = math.pi / length * torch.outer(steps, steps + 0.5)
    basis = torch.cos(angle) * math.sqrt(2.0 / length)
    basis[0] = math.sqrt(1.0 / length)
    return basis.to(like.dtype).to(like.device)


def _dct(x: Tensor) -> Tensor:
    rows, columns = (_dct_basis(x.shape[axis], x) for axis in (-2, -1))
    return rows @ x @ columns.T  # (h, h) (..., h, w) (w, w)


def _dct_inverse(coefficients: Tensor) -> Tensor:
    rows, columns = (_dct_basis(coefficients.shape[axis], coefficients) for axis in (-2, -1))
    return rows.T @ coefficients @ columns


def _fft_frequencies(length: int) -> Tensor:
    return 2.0 * torch.fft.fftfreq(length, dtype=torch.float64).abs()


def _fft(x: Tensor) -> Tensor:
    return torch.fft.fft2(x, norm="ortho")


def _fft_inverse(coefficients: Tensor) -> Tensor:
    return torch.fft.ifft2(coefficients, norm="ortho").real


_TRANSFORMS = {
    "dct": _Transform(_dct_frequencies, _dct, _dct_inverse),
    "fft": _Transform(_fft_frequencies, _fft, _fft_inverse),
}
