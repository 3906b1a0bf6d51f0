"""top_k and abs_sum: the sums of the largest and of all entries of |dW|.

S of K-LoRA (Ouyang et al. 2025), arXiv:2502.18461, Eqs. 3-5, and the sums of its Eq. 9.

abs_sum needs every entry, and finds top_k in the same pass. top_k alone passes over what cannot
be among the largest: |dW_ij| <= |row_i| |column_j| (Cauchy-Schwarz) for row_i of up and column_j
of down in any basis of their rank. In the basis where both have the same Gram matrix, the singular
values of dW, that is tight enough to skip most entries where the singular values decay, as they do
in trained LoRAs. Where they do not, as in random factors, this is noticed from a sample.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ...types import LayerUpdate
from ..factors import spread
from .registry import statistic

_GROUP = 16  # entries below one another that share one maximum
_BLOCK = {"cpu": 1 << 18}  # entries of dW looked at together: on a CPU what its cache holds
_LARGE_BLOCK = 1 << 24
_SAMPLE = 1 << 15
_SAMPLED_ROWS = 256  # of either factor, for the basis
_BANDS = 16  # least number of bands of rows in which columns are skipped
_LARGE = 1 << 20  # from so many entries on it pays to look for a basis ...
_SLIM = 8  # ... where the rank is at most so small a part of the sides
_WIDE = 2.0  # about how far the mean bound is above the least that it can be
_WORTH = 0.6  # share of the entries up to which skipping the others pays
_SAFE = 0.999  # what rounding of the bounds stays well within
_RIDGE = 1e-3  # keeps the change of basis well conditioned


@dataclass(frozen=True)
class Magnitude:
    """top: the sum of the k largest |dW| entries. total: the sum of all of them."""

    top: float
    total: float


class _Sides(NamedTuple):
    """dW / scale = rows @ columns.T or its transpose, with the fewer columns of the two.

    rows: float32 (a multiple of _GROUP, rank), filled up with zeros. columns: (fewer, rank).
    """

    rows: Tensor
    columns: Tensor
    scale: float

    @classmethod
    def of(cls, updates: LayerUpdate | Sequence[LayerUpdate]) -> _Sides:
        one = spread(updates)
        rows, columns = one.up.float(), one.flat_down.float().T.contiguous()
        if len(rows) < len(columns):
            rows, columns = columns, rows
        rows = torch.nn.functional.pad(rows, (0, 0, 0, -len(rows) % _GROUP))
        return cls(rows, columns, abs(one.scale))

    @property
    def entries(self) -> int:
        return len(self.rows) * len(self.columns)


class _Bounds(NamedTuple):
    """|rows[i] @ columns[j]| <= of_rows[i] * of_columns[j]; both fall."""

    of_rows: Tensor
    of_columns: Tensor

    @property
    def finite(self) -> bool:
        """False where a factor has numbers that are not; such an entry may have been skipped."""
        return math.isfinite((self.of_rows.sum() + self.of_columns.sum()).item())

    def width(self, row: int, floor: float) -> int:
        """How many columns have an entry of at least floor in this row or one after it, at most."""
        least = _SAFE * floor
        return int((self.of_columns * self.of_rows[row] >= least).sum())


@torch.no_grad()
def magnitude(updates: LayerUpdate | Sequence[LayerUpdate], k: int) -> Magnitude:
    """Both sums, exactly, in float32, without ever holding dW. k: at least 0; all entries if the
    layer has fewer. updates: one, or all that a layer holds (their sum is measured)."""
    sides = _Sides.of(updates)
    return _all(sides, k, _likely_floor(sides, k))


@torch.no_grad()
def top_sum(updates: LayerUpdate | Sequence[LayerUpdate], k: int) -> tuple[float, float | None]:
    """(top, total) of magnitude; total None where not all entries were made."""
    sides = _Sides.of(updates)
    floor = _likely_floor(sides, k)
    basis = _basis(sides, floor)
    if basis is not None:
        ordered, bounds = _in_order(sides, *basis)
        kept, _ = _sweep(ordered, k, _likely_floor(ordered, k), bounds)  # spread over the bounds
        if len(kept) >= k and bounds.finite:
            return sides.scale * _sum_of_largest(kept, k), None
    found = _all(sides, k, floor)
    return found.top, found.total


def _all(sides: _Sides, k: int, floor: float) -> Magnitude:
    k = min(k, sides.entries)
    kept, total = _sweep(sides, k, floor)
    if len(kept) < k:  # the floor was too high; with none, no entry is skipped
        kept, total = _sweep(sides, k, 0.0)
    return Magnitude(sides.scale * _sum_of_largest(kept, k), sides.scale * total)


def _sum_of_largest(kept: Tensor, k: int) -> float:
    largest = kept.topk(k, sorted=False).values
    return largest.cpu().double().sum().item()  # MPS has no float64


def _likely_floor(sides: _Sides, k: int) -> float:
    """A size that somewhat more than k entries reach, estimated from rows spread over all."""
    assert k >= 0, "a number of entries is not negative"
    step = max(1, sides.entries // _SAMPLE)
    rows = sides.rows[step // 2 % len(sides.rows) :: step]
    rows = torch.nn.functional.pad(rows, (0, 0, 0, -len(rows) % _GROUP))
    maxima = _maxima(torch.mm(rows, sides.columns.T).abs_()).flatten()
    expected = k / step
    likely = math.ceil(expected + 4 * math.sqrt(expected) + 8)
    return maxima.topk(min(likely, len(maxima)), sorted=False).values.amin().item()


def _sweep(
    sides: _Sides, k: int, floor: float, bounds: _Bounds | None = None
) -> tuple[Tensor, float]:
    """(entries of |dW| / scale from floor up, the k largest surely among them if there are k; the
    sum of all that were made). Made a block of rows at a time; groups whose maximum is too low are
    passed over, and with bounds columns in which no entry reaches the floor."""
    rows, columns = sides.rows, sides.columns
    size = max(_BLOCK.get(rows.device.type, _LARGE_BLOCK), _GROUP * len(columns))
    buffer = rows.new_empty(min(size, sides.entries))
    kept, sums, start = rows.new_empty(0), [], 0
    while start < len(rows):
        width = bounds.width(start, floor) if bounds else len(columns)
        if width == 0:
            break
        height = size // width // _GROUP * _GROUP
        if bounds:
            height = min(height, max(_GROUP, len(rows) // _BANDS // _GROUP * _GROUP))
        part = rows[start : start + height]
        start += len(part)
        block = buffer[: len(part) * width].view(len(part), width)
        torch.mm(part, columns[:width].T, out=block).abs_()
        sums.append(block.sum())
        group, column = (_maxima(block) >= floor).nonzero(as_tuple=True)
        entries = block.view(-1, _GROUP, width)[group, :, column].flatten()
        kept = torch.cat([kept, entries[entries >= floor]])
        if len(kept) > 2 * max(k, _GROUP):
            kept = kept.topk(k, sorted=False).values
            floor = kept.amin().item() if k else math.inf
    total = torch.stack(sums).cpu().double().sum().item() if sums else 0.0
    return kept, total


def _maxima(block: Tensor) -> Tensor:
    """(rows / _GROUP, columns): of each _GROUP neighbours in a column."""
    return block.view(-1, _GROUP, block.shape[1]).amax(dim=1)


def _basis(sides: _Sides, floor: float) -> tuple[Tensor, Tensor] | None:
    """(M, its inverse transposed), so that rows @ M and columns @ inverse have nearly the same
    Gram matrix; both (rank, rank). None where too few entries would be skipped for it to pay.

    Of a sample of rows and of columns: any invertible M gives true bounds. On a GPU the product
    takes less time than this.
    """
    rank = sides.rows.shape[1]
    slim = _SLIM * rank <= len(sides.columns) and sides.entries >= _LARGE
    if sides.rows.device.type != "cpu" or not slim or not floor > 0.0:
        return None
    rows, columns = (side[:: max(1, len(side) // _SAMPLED_ROWS)] for side in sides[:2])
    gram, other = rows.T @ rows / len(rows), columns.T @ columns / len(columns)
    both = gram @ other
    square = both.trace().item()  # the mean square of an entry
    fourth = (both * both.T).sum().item()
    # square^2 / fourth is an effective rank; the mean bound is at least its root times the entry's
    if not (fourth > 0.0 and _WIDE**2 * square**3 / fourth < floor**2):
        return None
    lower = torch.linalg.cholesky(other + torch.eye(rank) * (_RIDGE * other.trace() / rank))
    squares, turn = torch.linalg.eigh(lower.T @ gram @ lower)
    root = squares.clamp_min(_RIDGE**2 * squares[-1].item()).pow(0.25)
    basis = (lower @ turn) / root
    inverse = torch.linalg.solve_triangular(lower.T, turn * root, upper=True)
    bounds = (rows @ basis).norm(dim=1)[:, None] * (columns @ inverse).norm(dim=1)
    share = (bounds >= floor).float().mean().item()
    return (basis, inverse) if share < _WORTH else None


def _in_order(sides: _Sides, basis: Tensor, inverse: Tensor) -> tuple[_Sides, _Bounds]:
    """The sides with the rows and columns of the highest bounds first."""
    of_rows, by_row = (sides.rows @ basis).norm(dim=1).sort(descending=True)
    of_columns, by_column = (sides.columns @ inverse).norm(dim=1).sort(descending=True)
    rows, columns = sides.rows.index_select(0, by_row), sides.columns.index_select(0, by_column)
    return _Sides(rows, columns, sides.scale), _Bounds(of_rows, of_columns)


@statistic("top_k", ranked=True)
def top_k(updates: Sequence[LayerUpdate], k: int) -> Mapping[str, float]:
    top, total = top_sum(updates, k)
    return {"top_k": top} if total is None else {"top_k": top, "abs_sum": total}


@statistic("abs_sum")
def abs_sum(updates: Sequence[LayerUpdate], k: int) -> Mapping[str, float]:
    found = magnitude(updates, k)
    return {"top_k": found.top, "abs_sum": found.total}
