"""A schedule: how strong content and style are at a moment of sampling.

CRAFT-LoRA (2026), arXiv:2602.18936, Eq. 9 and App. C: a_c(t), a_s(t), each with a floor. The paper
does not say what a floor does. Ours maps a to a + f (1 - a): f where a is 0, 1 where a is 1, and
in between continuous and monotone, so the shape stays what it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ..errors import CraftError
from ..time import ANY_MOMENT, Moment
from .shapes import SHAPES

Clock = Literal["steps", "model"]
CLOCKS: tuple[Clock, ...] = ("steps", "model")


@dataclass(frozen=True)
class Schedule:
    """A shape with its settings.

    settings: knobs of the shape; those left out keep their defaults. content_floor, style_floor:
    in [0, 1]. clock: which progress of a moment counts, that of the run or that of the model.
    Raises CraftError for what lies outside.
    """

    shape: str = "constant"
    settings: Mapping[str, Any] = field(default_factory=dict)
    content_floor: float = 0.0
    style_floor: float = 0.0
    clock: Clock = "steps"

    def __post_init__(self) -> None:
        for name in ("content_floor", "style_floor"):
            floor = getattr(self, name)
            if not 0.0 <= floor <= 1.0:
                raise CraftError(
                    f"{name} = {floor!r}", "A floor ranges from 0 to 1", "Set one in that range"
                )
        if self.clock not in CLOCKS:
            raise CraftError(
                f"{self.clock!r} is no clock", f"Known are {', '.join(CLOCKS)}", "Choose one"
            )
        self.strengths(ANY_MOMENT)  # raises for a wrong shape or setting

    @property
    def steady(self) -> bool:
        """Whether the strengths are the same at every moment."""
        return self.shape == "constant" or self.content_floor == self.style_floor == 1.0

    def strengths(self, moment: Moment) -> tuple[float, float]:
        """(a_c, a_s) in [0, 1]; exactly 1 where the shape is 1."""
        shape = SHAPES[self.shape]
        noise = 1.0 - self._progress(moment)
        content, style = shape.function(noise, **shape.knobs(dict(self.settings)))
        return _raised(content, self.content_floor), _raised(style, self.style_floor)

    def _progress(self, moment: Moment) -> float:
        if self.clock == "steps":
            return moment.progress
        assert moment.model_progress is not None, "the model's clock needs a model"
        return moment.model_progress


def sample_curve(schedule: Schedule, count: int) -> list[tuple[float, float, float]]:
    """(progress, a_c, a_s) at `count` >= 2 evenly spaced moments, for pictures."""
    assert count >= 2, "a picture needs both ends"
    shares = [index / (count - 1) for index in range(count)]
    return [(share, *schedule.strengths(Moment(share, count, share))) for share in shares]


def _raised(strength: float, floor: float) -> float:
    return strength + floor * (1.0 - strength)
