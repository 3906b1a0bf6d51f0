"""When a model call happens, read off its noise level; nothing counts calls.

progress is the position of the call's sigma within a descending list of sigmas: step i of N steps
has progress i / (N - 1), and between two steps it follows log sigma. So a second evaluation of a
two-stage sampler lands between steps, and img2img, any step count and every image of a batch come
out right. CRAFT-LoRA (2026), arXiv:2602.18936, App. C, writes u = 1 - progress.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from ..types import Moment

_SAME = 1e-5  # relative: a sigma that went through exp and log in float32 is still that step's


def progress(sigma: float, sigmas: ArrayLike) -> float:
    """Progress in [0, 1] of a call at noise level `sigma`.

    sigmas: (N + 1,) one per step and the level where sampling ends, often 0, as a sampler gets
    them; for the model's own clock all its levels in descending order, followed by 0 (see
    `model_table`). Before the first step it is 0, after the last 1; a single step has 0.
    The sigma alone decides. Where a schedule meets it more than once (equal sigmas, restarts
    that go back up), the first time counts: a step's own sigma before a stretch between two
    steps, a stretch downwards before one upwards. A sigma no stretch meets counts as the nearest
    step's. Schedules that run upwards (unsampling) work the same way.
    """
    levels = np.asarray(sigmas, dtype=np.float64)  # (N + 1,)
    sigma, last = float(sigma), len(levels) - 2
    assert last >= 0, "a schedule has a step and an end"
    assert not (math.isnan(sigma) or np.isnan(levels).any()), "a sigma is not a number"
    return min(_position(sigma, levels), last) / last if last else 0.0


def moment(sigma: float, sigmas: ArrayLike, table: ArrayLike | None = None) -> Moment:
    """The moment of a call in a run over `sigmas`, by the model's clock if its table is given."""
    steps = len(np.asarray(sigmas)) - 1
    return Moment(progress(sigma, sigmas if table is None else table), steps)


def model_table(levels: ArrayLike) -> np.ndarray:
    """A model's noise levels, in any order, as the list `progress` takes for the model's clock."""
    descending = np.sort(np.asarray(levels, dtype=np.float64))[::-1]
    return np.append(descending, 0.0)


def _position(sigma: float, levels: np.ndarray) -> float:
    """Index among the levels at sigma, fractional between two."""
    met = np.flatnonzero(levels == sigma)
    if not met.size:
        gaps = _gaps(sigma, levels)
        nearly = np.isclose(levels, sigma, rtol=_SAME, atol=0.0)
        met = np.flatnonzero(nearly & (gaps == gaps.min()))
    if met.size:
        return float(met[0])
    before, after = levels[:-1], levels[1:]
    stretches = np.flatnonzero((before > sigma) & (sigma > after))
    if not stretches.size:
        stretches = np.flatnonzero((before < sigma) & (sigma < after))
    if stretches.size:
        start = int(stretches[0])
        return start + _fraction(sigma, float(before[start]), float(after[start]))
    return float(_gaps(sigma, levels).argmin())


def _gaps(sigma: float, levels: np.ndarray) -> np.ndarray:
    """Distance of each level from sigma; an infinite sigma is nearest to the largest."""
    return -levels if math.isinf(sigma) else np.abs(levels - sigma)


def _fraction(sigma: float, start: float, end: float) -> float:
    """How far sigma lies from start to end in log sigma: from 0 to 1.

    Where an end is 0 its log says nothing, so sigma itself is used; seen from an infinite end
    every sigma lies at the other one.
    """
    if math.isinf(start) or math.isinf(end):
        return 1.0 if math.isinf(start) else 0.0
    if min(start, end) <= 0.0:
        return (start - sigma) / (start - end)
    return math.log(start / sigma) / math.log(start / end)
