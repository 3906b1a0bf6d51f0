"""The training pictures: a pool of renders of trained pairs, in a file, drawn at random."""

from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from ..world import captions
from ..world.render import SIZE, render
from .mixture import trained_pair

CHUNK = 64


class Pool:
    """Renders of `count` random trained pairs, kept as a uint8 array on disk."""

    def __init__(self, folder: Path, count: int, seed: int):
        rng = np.random.default_rng(seed)
        self.pairs = [trained_pair(rng) for _ in range(count)]
        path = folder / f"pool_{count}_{seed}.npy"
        if not path.is_file():
            jobs = ((*pair, seed * 1_000_003 + k) for k, pair in enumerate(self.pairs))
            render_to(path, jobs, count)
        self.pictures = np.load(path, mmap_mode="r")
        if self.pictures.shape != (count, SIZE, SIZE, 3):
            raise SystemExit(f"{path} belongs to another world: delete it and start again")

    def batch(self, size: int, rng: np.random.Generator, drop: float):
        """Images (B, 3, 64, 64) in [-1, 1] and their captions, a share `drop` of them empty."""
        chosen = rng.integers(len(self.pairs), size=size)
        images = torch.from_numpy(self.pictures[chosen]).permute(0, 3, 1, 2).float() / 127.5 - 1
        texts = [
            "" if rng.random() < drop else captions.sample(*self.pairs[i], rng) for i in chosen
        ]
        return images.contiguous(), texts


def render_to(path: Path, jobs: Iterable[tuple[str, str, int]], count: int) -> None:
    """Write the renders of (object, style, seed) jobs as one array, on every core."""
    partial = path.with_suffix(".partial")
    pictures = np.lib.format.open_memmap(partial, "w+", np.uint8, (count, SIZE, SIZE, 3))
    with ProcessPoolExecutor(mp_context=get_context("fork")) as workers:
        drawn = workers.map(_drawn, jobs, chunksize=CHUNK)
        for index, picture in enumerate(tqdm(drawn, total=count, desc="pictures")):
            pictures[index] = picture
    pictures.flush()
    partial.rename(path)


def _drawn(job: tuple[str, str, int]) -> np.ndarray:
    return render(*job)
