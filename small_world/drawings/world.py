"""The drawings as a world to measure LoRAs on: objects x emoji sets."""

from __future__ import annotations

from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from ..judge import JUDGES, Judge, Prototypes, as_images
from ..train.measuring.worlds import World
from .pictures import Drawings
from .sets import (
    HELD_OUT_WORDS,
    NAMES,
    REPORT_SETS,
    REPORT_WORDS,
    SETS,
    TRAINED_SETS,
    TUNING_SETS,
    TUNING_WORDS,
)

SUBJECT = tuple(one.name for one in TRAINED_SETS[:4])
SHOWN_ON = ("cat", "car", "rocket", "mushroom")  # drawn by every set
# Never learned from: with these a style LoRA is asked for by itself.
ASKED = tuple("fish bear tree heart apple star moon clock guitar dog elephant pizza".split())
OTHERS = tuple(zip(SHOWN_ON, SUBJECT, strict=True))
EACH = 12  # pictures of a prototype


def drawings_world(folder: Path, models: Path) -> World:
    """folder: of the drawings. models: of what was trained on them."""
    drawings = Drawings(folder)
    halves = {
        "tuning": (TUNING_WORDS, tuple(one.name for one in TUNING_SETS)),
        "report": (REPORT_WORDS, tuple(one.name for one in REPORT_SETS)),
    }
    needed = {*product((*HELD_OUT_WORDS, *SHOWN_ON), SETS), *OTHERS}
    lacking = [f"{style}/{word}.png" for word, style in needed if not drawings.has(word, style)]
    if lacking:
        raise SystemExit(
            f"{folder} lacks {len(lacking)} of the drawings that are measured on, such as "
            f"{min(lacking)}. Get them: python -m small_world.drawings fetch"
        )
    return World(
        "drawings",
        halves,
        drawings.render,
        {one.name: one.word for one in TRAINED_SETS},
        SUBJECT,
        SHOWN_ON,
        (tuple(one.name for one in TRAINED_SETS), ASKED),
        OTHERS,
        tuple(models / "judge" / path.name for path in JUDGES),
        partial(_prototypes, drawings),
    )


def _prototypes(drawings: Drawings, judge: Judge) -> tuple[Prototypes, Prototypes]:
    """Of every object over the sets that draw it, and of every set over random objects."""
    rng = np.random.default_rng(0)
    contents = {
        word: [(word, style) for style in SETS if drawings.has(word, style)] for word in NAMES
    }
    styles = {
        style: [(str(word), style) for word in rng.permutation(
            [word for word in NAMES if drawings.has(word, style)])[:EACH]]
        for style in SETS
    }  # fmt: skip
    found = []
    for embed, named in ((judge.content_embedding, contents), (judge.style_embedding, styles)):
        means = [
            embed(as_images(drawings.render(*pair, seed=k) for k, pair in enumerate(pairs))).mean(0)
            for pairs in named.values()
        ]
        vectors = functional.normalize(torch.stack(means), dim=1)
        found.append(Prototypes(tuple(named), vectors))
    return found[0], found[1]
