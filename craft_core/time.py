"""When in sampling a model call happens, on two clocks, read off its noise level.

One clock is the run: the position of the call's sigma within the descending list of the run's
sigmas. Step i of N steps has progress i / (N - 1), and between two steps it follows log sigma. So a
second evaluation of a two-stage sampler lands between steps, and img2img, any step count and every
image of a batch come out right. The other clock is the model: the same, over all its noise levels.
Nothing counts calls.

Several sampling runs may make one picture, each with a part of the sigmas. A run alone cannot know
that: its steps begin anew. Where the sigmas of the whole are given, they count for each run of it.
CRAFT-LoRA (2026), arXiv:2602.18936, App. C, writes u = 1 - progress.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from .errors import CraftError

_SAME = 1e-5  # relative: a sigma that went through exp and log in float32 is still that step's
_STEP = 1e-6  # of a step: the rounding of a share of progress
_PART = 1e-4  # relative: two ways to compute one schedule may differ by as much


@dataclass(frozen=True)
class Moment:
    """When in sampling a model call happens.

    progress: over the run, 0 at its first step and 1 at its last (never a call count). steps: of
    the run. model_progress: over all noise levels of the model, 0 at the highest and 1 at the
    lowest; None where no model is at hand, as when gates are written to a file.
    """

    progress: float
    steps: int
    model_progress: float | None = None

    @property
    def step(self) -> float:
        """Steps since the first: 0 there, fractional for the second evaluation of a step."""
        return self.progress * (self.steps - 1)

    @property
    def step_index(self) -> int:
        """The step that the call is part of, counted from 0."""
        return math.floor(self.step + _STEP)

    @property
    def noise(self) -> float:
        """u, the noise progress of CRAFT-LoRA's App. C: 1 at the first step, 0 at the last."""
        return 1.0 - self.progress


ANY_MOMENT = Moment(0.0, 1, 0.0)
"""Where time changes nothing; on every clock."""


@dataclass(frozen=True, eq=False)
class Timeline:
    """What time is read off: the sigmas of a run, and the levels of its model.

    sigmas: (steps + 1,). levels: as `model_table` gives them; None where no model is at hand.
    """

    sigmas: np.ndarray
    levels: np.ndarray | None = None

    @classmethod
    def of(
        cls,
        run: Sequence[float],
        levels: ArrayLike | None = None,
        whole: Sequence[float] | None = None,
    ) -> Timeline:
        """Of a sampler's run; whole: the sigmas of all the runs that make the picture with it.

        CraftError where the run is no part of the whole.
        """
        if whole is not None:
            _require_part(run, whole)
        sigmas = np.asarray(run if whole is None else whole, dtype=np.float64)
        return cls(sigmas, None if levels is None else np.asarray(levels, dtype=np.float64))

    def at(self, sigma: float) -> Moment:
        """The moment of a call at this noise level."""
        of_model = None if self.levels is None else progress(sigma, self.levels)
        return Moment(progress(sigma, self.sigmas), len(self.sigmas) - 1, of_model)


def whole_sigmas(sigmas: Sequence[float]) -> tuple[float, ...]:
    """The sigmas of a whole run as given by the user, checked. CraftError for what is no run."""
    if len(sigmas) < 2 or any(math.isnan(sigma) for sigma in sigmas):
        raise CraftError(
            f"whole_sigmas is {', '.join(f'{sigma:.4g}' for sigma in sigmas) or 'empty'}",
            "A run of N steps has N + 1 noise levels, each a number",
            "Connect the sigmas of the whole run, as they are before they are split",
        )
    return tuple(map(float, sigmas))


def _require_part(run: Sequence[float], whole: Sequence[float]) -> None:
    called = run[:-1]  # where the run ends, the model is not called
    low, high = min(whole), max(whole)
    if called and (min(called) < low * (1.0 - _PART) or max(called) > high * (1.0 + _PART)):
        raise CraftError(
            f"The sampler runs from noise {called[0]:.4g} to {called[-1]:.4g}, outside the "
            f"whole_sigmas, which go from {whole[0]:.4g} to {whole[-1]:.4g}",
            "Each sampler's sigmas are a part of the whole run's",
            "Connect the sigmas as they are before they are split, or nothing, so that time "
            "begins anew in each sampler",
        )


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
