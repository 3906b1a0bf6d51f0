"""The training pictures: renders drawn by separate processes, kept in a pool and renewed.

The renders of a chunk depend on the training's seed and the chunk's number alone.
"""

import os
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import connection, get_context, parent_process
from typing import TYPE_CHECKING

import numpy as np

from ..architecture import TEXT_LENGTH
from ..vocabulary import build_words, padded_ids
from ..world import captions
from ..world.composed import COMPOSED
from ..world.objects import OBJECTS
from ..world.render import SIZE, render
from ..world.styles import STYLES
from .mixture import trained_pair

if TYPE_CHECKING:  # the drawing processes do not import torch
    import torch

CHUNK = 128
CAPTIONS = 6  # of a render
OBJECT_NAMES, STYLE_NAMES = tuple(OBJECTS), (*STYLES, *COMPOSED)

# (CHUNK, 64, 64, 3) uint8 pictures, and what is known of each: (CHUNK, ...) int16.
Chunk = tuple[np.ndarray, np.ndarray]


def captioned_chunk(seed: int, index: int) -> Chunk:
    """Trained pairs, and the token ids of CAPTIONS random captions of each."""
    rng, words = np.random.default_rng((seed, index)), build_words()
    pairs = [trained_pair(rng) for _ in range(CHUNK)]
    ids = [
        [padded_ids(captions.sample(*pair, rng), words) for _ in range(CAPTIONS)] for pair in pairs
    ]
    return _drawn(pairs, rng), np.array(ids, np.int16)


def labelled_chunk(seed: int, index: int) -> Chunk:
    """Any object in any style, and the indices of both in OBJECT_NAMES and STYLE_NAMES."""
    rng = np.random.default_rng((seed, index))
    pairs = any_pairs(CHUNK, rng)
    labels = [(OBJECT_NAMES.index(c), STYLE_NAMES.index(s)) for c, s in pairs]
    return _drawn(pairs, rng), np.array(labels, np.int16)


def any_pairs(count: int, rng: np.random.Generator) -> list[tuple[str, str]]:
    """Any object in any style; half of the styles are named, half composed."""
    return [
        (
            OBJECT_NAMES[rng.integers(len(OBJECT_NAMES))],
            STYLE_NAMES[rng.integers(len(STYLES)) if k % 2 else rng.integers(len(STYLE_NAMES))],
        )
        for k in range(count)
    ]


def _drawn(pairs, rng: np.random.Generator) -> np.ndarray:
    return np.stack([render(*pair, seed=int(rng.integers(2**31))) for pair in pairs])


class Farm:
    """Processes that draw chunks ahead of their use, in order, at low priority."""

    def __init__(
        self,
        draw: Callable[[int, int], Chunk],
        seed: int,
        workers: int,
        first: int = 0,
        ahead: int = 3,
    ):
        self.draw, self.seed, self.next = draw, seed, first
        self.ahead = ahead * workers
        self.pending: deque = deque()
        self.workers = ProcessPoolExecutor(workers, get_context("spawn"), _as_a_helper)
        self.order()

    def order(self) -> None:
        """Order as many chunks as the processes need to stay busy."""
        while len(self.pending) < self.ahead:
            self.pending.append(self.workers.submit(self.draw, self.seed, self.next))
            self.next += 1

    def ready(self, wait: bool = False) -> list[Chunk]:
        """The chunks drawn since the last call; with `wait` at least one."""
        chunks = []
        while self.pending and (self.pending[0].done() or (wait and not chunks)):
            chunks.append(self.pending.popleft().result())
        self.order()
        return chunks

    def close(self) -> None:
        self.workers.shutdown(wait=False, cancel_futures=True)


def _as_a_helper() -> None:
    """Set the lowest priority, and end when the training ends, also if it is killed."""
    if hasattr(os, "nice"):
        os.nice(19)
    end_with_parent()


def end_with_parent() -> None:
    """Let this process end when the one that started it ends, also if that is killed."""

    def watch():
        parent = parent_process()
        if parent is not None:
            connection.wait([parent.sentinel])
            os._exit(0)

    threading.Thread(target=watch, daemon=True).start()


class Pool:
    """A ring of renders on the training's device; new chunks take the place of the oldest."""

    def __init__(self, capacity: int, device: "torch.device", known: tuple[int, ...]):
        import torch

        capacity = max(CHUNK, capacity // CHUNK * CHUNK)
        self.pictures = torch.empty((capacity, SIZE, SIZE, 3), dtype=torch.uint8, device=device)
        self.known = torch.zeros((capacity, *known), dtype=torch.int16, device=device)
        self.written = 0

    def __len__(self) -> int:
        return min(self.written, len(self.pictures))

    def add(self, chunks: list[Chunk]) -> None:
        import torch

        for pictures, known in chunks:
            place = self.written % len(self.pictures)
            self.pictures[place : place + CHUNK].copy_(torch.from_numpy(pictures))
            self.known[place : place + CHUNK].copy_(torch.from_numpy(known))
            self.written += CHUNK

    def fill(self, farm: Farm, count: int) -> None:
        """Wait until the pool has `count` renders, or is full."""
        while len(self) < min(count, len(self.pictures)):
            self.add(farm.ready(wait=True))

    def batch(self, size: int, generator: "torch.Generator"):
        """Images (B, 3, 64, 64) in [-1, 1], and what is known of each as int64."""
        import torch

        chosen = torch.randint(len(self), (size,), generator=generator, device=self.pictures.device)
        images = self.pictures[chosen].permute(0, 3, 1, 2).float() / 127.5 - 1
        return images, self.known[chosen].long()


CAPTION_IDS = (CAPTIONS, TEXT_LENGTH)
LABELS = (2,)
