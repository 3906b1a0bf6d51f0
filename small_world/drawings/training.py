"""Go on training the base model, and train two judges, on the drawings.

The base model begins with the shipped weights and sees the trained sets alone, of all objects that
are not held out.  The judges see every set and every object.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch

from ..judge import JUDGES
from ..train.base import LOOK_COLUMNS, BaseTraining, Settings
from ..train.data import CAPTIONS, CHUNK, Chunk
from ..train.judge import train
from ..vocabulary import build_words, padded_ids
from ..world import captions
from .pictures import Drawings
from .sets import NAMES, SETS, TRAINED_SETS, TRAINED_WORDS

WORDS, STYLES = tuple(NAMES), tuple(SETS)
LOOK_WORDS = ("cat", "house", "rocket", "mushroom", "dog", "guitar", "elephant", "pineapple")


def captioned_drawings(drawings: Drawings, seed: int, index: int) -> Chunk:
    """Trained drawings, and the token ids of CAPTIONS random captions of each."""
    rng, words = np.random.default_rng((seed, index)), build_words()
    called = {one.name: one.word for one in TRAINED_SETS}
    pairs = _pairs(drawings, TRAINED_WORDS, tuple(called), rng)
    ids = [
        [padded_ids(captions.sample(content, called[style], rng), words) for _ in range(CAPTIONS)]
        for content, style in pairs
    ]
    return _pictures(drawings, pairs, rng), np.array(ids, np.int16)


def labelled_drawings(drawings: Drawings, seed: int, index: int) -> Chunk:
    """Any drawings, and the places of object and set in WORDS and STYLES."""
    rng = np.random.default_rng((seed, index))
    pairs = _pairs(drawings, WORDS, STYLES, rng)
    labels = [(WORDS.index(content), STYLES.index(style)) for content, style in pairs]
    return _pictures(drawings, pairs, rng), np.array(labels, np.int16)


def train_base(out: Path, drawings: Drawings, settings: Settings, workers: int,
               start: Path) -> Path:  # fmt: skip
    """The checkpoint of a base model that began with `start`."""
    look = [captions.plain(word, one.word) for one in TRAINED_SETS for word in LOOK_WORDS]
    assert len(LOOK_WORDS) == LOOK_COLUMNS
    draw = partial(captioned_drawings, drawings)
    return BaseTraining(out, settings, workers, start, draw=draw, look=look).run()


def train_judges(out: Path, drawings: Drawings, minutes: float, workers: int, batch: int,
                 first: int) -> list[Path]:  # fmt: skip
    """Both judges' files. They begin with the small world's judges."""
    return train(out, torch.device("cpu"), minutes, workers, batch, first, start=JUDGES,
                 draw=partial(labelled_drawings, drawings), words=(WORDS, STYLES))  # fmt: skip


def _pairs(drawings: Drawings, words: Sequence[str], styles: Sequence[str],
           rng: np.random.Generator) -> list[tuple[str, str]]:  # fmt: skip
    """CHUNK objects, each in one of those sets that draw it; sets equally often where they can."""
    drawn: dict[str, list[str]] = {
        style: [word for word in words if drawings.has(word, style)] for style in styles
    }
    chosen = [styles[rng.integers(len(styles))] for _ in range(CHUNK)]
    return [(str(rng.choice(drawn[style])), style) for style in chosen]


def _pictures(drawings: Drawings, pairs: Sequence[tuple[str, str]],
              rng: np.random.Generator) -> np.ndarray:  # fmt: skip
    return np.stack([drawings.render(*pair, seed=int(rng.integers(2**31))) for pair in pairs])
