"""What a measurement's pictures are of: a world's objects and styles, and how LoRAs learn them.

Only plain data and functions that other processes can be given.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...judge import JUDGES, Judge, Prototypes, content_prototypes, style_prototypes
from ...world import held_out
from ...world.objects import CORE_OBJECTS, OBJECTS
from ...world.render import Pose, render
from ...world.styles import CORE_STYLES, STYLES
from ..references import OTHERS, STYLE, SUBJECT

ALONE_PICTURES = 24  # at least, of a LoRA by itself


@dataclass(frozen=True)
class World:
    """Objects and styles, and how they are drawn, learned, asked for and judged.

    halves: {tuning, report}: held-out objects and styles, never seen by the base model.
    render: (object, style, seed, pose) -> (64, 64, 3) uint8.
    called: what captions call a style that the base model knows.
    subject: the styles of the pictures from which a content LoRA learns.
    shown_on: the objects of the pictures from which a style LoRA learns.
    alone: styles, and objects, with which a LoRA by itself is asked for.
    others: pairs that the base model knows, for trainings that need such pictures.
    judges: their files. prototypes: of a judge: of every object, and of every style.
    """

    name: str
    halves: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]]
    render: Callable[..., np.ndarray]
    called: Mapping[str, str]
    subject: tuple[str, ...]
    shown_on: tuple[str, ...]
    alone: tuple[tuple[str, ...], tuple[str, ...]]
    others: tuple[tuple[str, str], ...]
    judges: tuple[Path, ...]
    prototypes: Callable[[Judge], tuple[Prototypes, Prototypes]]

    @property
    def shots(self) -> dict[str, int]:
        """How many pictures a LoRA of each role learns from."""
        return {"content": len(self.subject), "style": len(self.shown_on)}

    def shown(self, role: str, name: str, count: int) -> list[tuple[str, str, str]]:
        """Object, style and caption of each of the `count` pictures that a LoRA learns from."""
        if role == "style":
            return [(one, name, f"a {one} in zwx style") for one in self.shown_on[:count]]
        family = OBJECTS[name].family
        return [(name, style, f"a sks {family} in {self.called[style]} style")
                for style in self.subject[:count]]  # fmt: skip

    def upright(self, content: str, style: str) -> np.ndarray:
        """The picture of a pair that LoRAs learn from and that serves as a reference."""
        return self.render(content, style, seed=0, pose=Pose())

    def references(self, content: str, style: str) -> list[np.ndarray]:
        """One picture each of what the two LoRAs learned, as a user has them."""
        return [self.upright(content, self.subject[0]), self.upright(self.shown_on[0], style)]

    def asked_alone(self, role: str, name: str) -> list[tuple[str, str]]:
        """For a LoRA by itself: the style or object it is asked in, and the prompt."""
        styles, objects = self.alone
        if role == "content":
            family = OBJECTS[name].family
            return [(one, f"<c>a sks {family}</c> in {self.called[one]} style") for one in styles]
        return [(one, f"a {one} in <s>zwx style</s>") for one in objects]

    def alone_each(self, role: str) -> int:
        """How many pictures of each prompt of `asked_alone`."""
        return -(-ALONE_PICTURES // len(self.alone[role == "style"]))


def _prototypes(judge: Judge) -> tuple[Prototypes, Prototypes]:
    return content_prototypes(judge), style_prototypes(judge)


_FREE = [name for name in CORE_OBJECTS if name != STYLE[0]][:24:2]
SMALL_WORLD = World(
    "small world",
    {
        "tuning": (held_out.TUNING_OBJECTS, held_out.TUNING_STYLES),
        "report": (held_out.REPORT_OBJECTS, held_out.REPORT_STYLES),
    },
    render,
    {name: name for name in STYLES},
    SUBJECT,
    (STYLE[0],),
    (CORE_STYLES, tuple(_FREE)),
    OTHERS,
    JUDGES,
    _prototypes,
)
