"""Removing a learned subspace from a weight: W* = W - Q Q^T W.

CRAFT-LoRA (Li, Cai, Zhang 2026), arXiv:2602.18936, Eqs. 1, 3 and 4, after PaRa, arXiv:2406.05641.
A convolution's weight is viewed as (out, n * kernel). `side="output"` is the paper's; the
authors' release projects the inputs, W* = W - W Q Q^T, which is `side="input"`.
A fraction `strength` of the component may be removed; the paper removes all of it (1).
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from ..errors import CraftError
from ..types import Factors
from .decompositions import decomposed

Side = Literal["output", "input"]
SIDES: tuple[Side, ...] = get_args(Side)

# Largest deviation of Q^T Q from the identity, unless the basis was stored with fewer digits.
ORTHONORMAL_TOLERANCE = 1e-3
# Above this deviation a basis was rounded after it was made: float32 alone leaves about 1e-7,
# float16 1e-4 for a layer of 64 outputs and 1e-5 for one of ten thousand.
ROUNDED = 2e-6
# Types that files are stored in and whose rounding counts, the coarsest first.
_STORED = (torch.bfloat16, torch.float16)
# A column whose part outside the columns before it is shorter than this fraction of the column
# adds no direction: float32 rounding alone leaves about 1e-7.
DEPENDENT_COLUMN = 1e-6
# Sine of the angle below which a style direction counts as contained in the content subspace.
DEPENDENT_DIRECTION = 1e-4


def dimension(shape: tuple[int, ...] | torch.Size, side: Side) -> int:
    """Size of the space a basis of a weight of this shape lives in: out, or n * kernel."""
    require_side(side)
    return shape[0] if side == "output" else torch.Size(shape[1:]).numel()


def orthonormal(basis: Tensor) -> Tensor:
    """Q = qr(M).Q of a learnable basis M (out, rank) -> (out, rank). Eq. 1.

    Differentiable; computed in float32 (float64 stays). CraftError if M has more columns than
    rows, a value that is not finite, or dependent columns (Q would name arbitrary directions).
    """
    _require_matrix(basis, "a basis")
    q, r = decomposed(basis.to(_working(basis)))  # (out, rank), (rank, rank)
    outside = r.detach().diagonal().abs()  # length of each column outside those before it
    lengths = torch.linalg.vector_norm(r.detach(), dim=0)
    if bool((outside <= DEPENDENT_COLUMN * lengths).any()):
        raise CraftError(
            f"A basis of {basis.shape[1]} columns spans fewer dimensions than it has columns",
            "The columns of a basis must be linearly independent",
            "Lower its rank, or start it from random values",
        )
    return q


def refined(q: Tensor) -> Tensor:
    """q orthonormal to float32's last digits, (out, rank); float64 stays.

    A basis from a file in half precision is off by the rounding: it is orthonormalised in float64,
    its columns in order. One that is not off is returned as it is, bitwise.
    """
    working = _working(q)
    if _deviation(q) <= ROUNDED:
        return q.to(working)
    exact, r = torch.linalg.qr(q.cpu().double())
    return (exact * r.diagonal().sign()).to(q.device, working)  # QR may change the sign of a column


def merge(q_content: Tensor, q_style: Tensor, tolerance: float | None = None) -> Tensor:
    """Orthonormal basis of span[Q_c | Q_s], (out, rank_c) and (out, rank_s) -> (out, rank). Eq. 3.

    The first rank_c columns are Q_c itself (refined); the others span what Q_s adds.
    Rank-revealing: the singular values of Q_s - Q_c Q_c^T Q_s are the sines of the angles between
    the two subspaces, and directions whose sine is at most `tolerance` are dropped as dependent.
    By default that is 1e-4, or what the digits that the two were stored with can tell apart: two
    equal spans rounded to float16 meet at sines of 4e-4. The squares of the sines come from the
    small Gram matrix, in float64, where 1e-4 squared is far from rounding.
    """
    require_orthonormal(q_content, "The content basis")
    require_orthonormal(q_style, "The style basis")
    if q_content.shape[0] != q_style.shape[0]:
        raise CraftError(
            f"The content basis has {q_content.shape[0]} rows and the style basis "
            f"{q_style.shape[0]}",
            "Two bases of one layer live in the same space",
            "Merge bases trained for the same model and side",
        )
    if tolerance is None:
        tolerance = max(DEPENDENT_DIRECTION, 2 * _digits(q_content), 2 * _digits(q_style))
    first = refined(q_content)
    content, style = first.double(), refined(q_style.double())
    new = style - content @ (content.T @ style)  # (out, rank_s), orthogonal to Q_c
    squared_sines, turn = torch.linalg.eigh(new.T @ new)  # (rank_s,), (rank_s, rank_s)
    keep = squared_sines > tolerance**2
    added = new @ turn[:, keep] / squared_sines[keep].sqrt()  # (out, rank - rank_c)
    return torch.cat([first, added.to(first.dtype)], dim=1)


def component(weight: Tensor, q: Tensor, side: Side) -> Tensor:
    """Q Q^T W (output side) or W Q Q^T (input side), in the weight's shape and float32.

    Nothing is checked: q must already be an orthonormal basis of this weight's side.
    """
    working = _working(weight)
    flat, q = weight.to(working).flatten(1), q.to(working)  # (out, n * kernel)
    inside = q @ (q.T @ flat) if side == "output" else (flat @ q) @ q.T
    return inside.reshape(weight.shape)


def project_out(weight: Tensor, q: Tensor, side: Side = "output", strength: float = 1.0) -> Tensor:
    """W* = W - strength * Q Q^T W, in the weight's shape and dtype. Eqs. 1 and 4.

    weight: (out, n) or (out, n, *kernel); q: (out, rank) or, input side, (n * kernel, rank).
    """
    require_basis_of(weight.shape, q, side)
    _require_weight(weight)
    require_strength(strength)
    removed = component(weight, refined(q), side)
    return (weight.to(removed.dtype) - strength * removed).to(weight.dtype)


def low_rank_patch(
    weight: Tensor, q: Tensor, side: Side = "output", strength: float = 1.0
) -> Factors:
    """The same projection as a LoRA: W + up @ down = W - strength * Q Q^T W.

    Output side: up = -strength * Q, down = Q^T W. Input side: up = -strength * W Q, down = Q^T.
    Float32, scale 1; down keeps the kernel's axes.
    """
    require_basis_of(weight.shape, q, side)
    _require_weight(weight)
    require_strength(strength)
    working = _working(weight)
    flat, q = weight.to(working).flatten(1), refined(q).to(working)  # (out, n * kernel)
    up, down = (q, q.T @ flat) if side == "output" else (flat @ q, q.T)
    down = down.reshape(q.shape[1], *weight.shape[1:])  # (rank, n, *kernel)
    return Factors(down=down.contiguous(), up=-strength * up)


def require_side(side: str) -> None:
    """CraftError unless side is "output" or "input"."""
    if side not in SIDES:
        raise CraftError(
            f"side = {side!r}",
            "A projection acts on a layer's 'output' (the paper) or 'input' (its release)",
            "Choose one of the two",
        )


def require_strength(strength: float) -> None:
    """CraftError unless 0 <= strength <= 1: beyond 1 the component changes sign."""
    if not 0.0 <= strength <= 1.0:  # also refuses NaN
        raise CraftError(
            f"strength = {strength!r}",
            "It ranges from 0 (nothing removed) to 1 (the whole subspace removed)",
            "Set a value in that range",
        )


def require_orthonormal(q: Tensor, name: str = "The basis", tolerance: float | None = None) -> None:
    """CraftError unless q (out, rank) is finite and max |Q^T Q - I| <= tolerance.

    By default that is 1e-3, or more where q holds numbers of a type with fewer digits.
    """
    _require_matrix(q, name)
    deviation = _deviation(q)
    if tolerance is None:
        tolerance = ORTHONORMAL_TOLERANCE
        if deviation > tolerance:
            tolerance = max(tolerance, 2 * _digits(q))
    if deviation > tolerance:
        raise CraftError(
            f"{name} is not orthonormal: Q^T Q is {deviation:.2g} away from the identity",
            f"At most {tolerance:.2g} is allowed",
            "Orthonormalise it with craft_core.projection.orthonormal before using it",
        )


def require_basis_of(shape: tuple[int, ...] | torch.Size, q: Tensor, side: Side) -> None:
    """CraftError unless q is an orthonormal basis for weights of this shape and side."""
    require_side(side)
    rows = dimension(shape, side)
    if q.ndim == 2 and q.shape[0] != rows:
        raise CraftError(
            f"A basis of shape {tuple(q.shape)} was given for a weight of shape {tuple(shape)}",
            f"On the {side} side its first size must be {rows}",
            "Use the basis trained for this model and side",
        )
    require_orthonormal(q)


def _deviation(q: Tensor) -> float:
    """max |Q^T Q - I|, in float64: float32 would add 5e-6 of its own in a layer of 6000 outputs."""
    exact = q.detach().cpu().double()  # MPS has no float64
    return float((exact.T @ exact - torch.eye(q.shape[1], dtype=torch.float64)).abs().max())


def _digits(q: Tensor) -> float:
    """Relative spacing of the numbers that q was stored in; 0 where nothing was rounded.

    Read off the numbers, for what a file held in float16 is float32 by now, or was before it was
    saved again.
    """
    if _deviation(q) <= ROUNDED:
        return 0.0
    q = q.detach()
    for dtype in _STORED:
        if torch.equal(q.to(dtype).to(q.dtype), q):
            return torch.finfo(dtype).eps
    return 0.0


def _require_matrix(basis: Tensor, name: str) -> None:
    """A finite matrix with at least one column and no more columns than rows."""
    if basis.ndim != 2 or not 1 <= basis.shape[1] <= basis.shape[0]:
        raise CraftError(
            f"{name} has shape {tuple(basis.shape)}",
            "A basis is a matrix (out, rank) with 1 <= rank <= out",
            "Lower its rank, or check that it belongs to this layer",
        )
    _require_finite(basis, name)


def _require_weight(weight: Tensor) -> None:
    _require_finite(weight, f"A weight of shape {tuple(weight.shape)}")


def _require_finite(values: Tensor, name: str) -> None:
    if not bool(torch.isfinite(values.detach().to(_working(values))).all()):
        raise CraftError(
            f"{name} holds values that are not finite",
            "NaN and infinity cannot be projected",
            "Take it from an intact file, or train it again at a lower learning rate",
        )


def _working(values: Tensor) -> torch.dtype:
    return torch.float64 if values.dtype == torch.float64 else torch.float32
