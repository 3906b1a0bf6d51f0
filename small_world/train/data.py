"""The training pictures: a pool of renders of all trained pairs, in a file, drawn at random."""

from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from ..world import captions
from ..world.objects import TRAINED_OBJECTS
from ..world.render import SIZE, render
from ..world.styles import TRAINED_STYLES


class Pool:
    """`repeats` renders of every trained pair, kept as a uint8 array on disk."""

    def __init__(self, folder: Path, repeats: int, seed: int):
        self.pairs = [(c, s) for c in TRAINED_OBJECTS for s in TRAINED_STYLES] * repeats
        path = folder / f"pool_{len(self.pairs)}_{seed}.npy"
        if not path.is_file():
            self._render(path, seed)
        self.pictures = np.load(path, mmap_mode="r")
        if self.pictures.shape != (len(self.pairs), SIZE, SIZE, 3):
            raise SystemExit(f"{path} belongs to another world: delete it and start again")

    def _render(self, path: Path, seed: int) -> None:
        partial = path.with_suffix(".partial")
        shape = (len(self.pairs), SIZE, SIZE, 3)
        pictures = np.lib.format.open_memmap(partial, "w+", np.uint8, shape)
        for index, (content, style) in enumerate(tqdm(self.pairs, desc="pictures")):
            pictures[index] = render(content, style, seed * 1_000_003 + index)
        pictures.flush()
        partial.rename(path)

    def batch(self, size: int, rng: np.random.Generator, drop: float):
        """Images (B, 3, 64, 64) in [-1, 1] and their captions, a share `drop` of them empty."""
        chosen = rng.integers(len(self.pairs), size=size)
        images = torch.from_numpy(self.pictures[chosen]).permute(0, 3, 1, 2).float() / 127.5 - 1
        texts = [
            "" if rng.random() < drop else captions.sample(*self.pairs[i], rng) for i in chosen
        ]
        return images.contiguous(), texts
