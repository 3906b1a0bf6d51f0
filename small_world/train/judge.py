"""Train the judges: cosine classifiers over all objects and all styles, on spoilt renders.

The class vector of a composed style is the sum of its three words' vectors, so that a combination
that was never drawn has one too.  Renders are bent, shifted, blurred and made noisy, because the
pictures to be judged come from a diffusion model and not from the renderer.  Two judges from
different seeds are trained side by side on the same pool, each on batches of its own.
"""

import math
import time
from collections.abc import Callable, Sequence, Sized
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional
from tqdm import tqdm

from ..judge import (
    JUDGES,
    WIDTH,
    Judge,
    as_images,
    content_prototypes,
    load_judge,
    nearest,
    style_prototypes,
)
from ..world.composed import COMPOSED, GROUNDS, PALETTES, TECHNIQUES
from ..world.objects import HELD_OUT_OBJECTS, OBJECTS, TRAINED_OBJECTS
from ..world.render import render
from ..world.styles import HELD_OUT_STYLES, STYLES, TRAINED_STYLES
from . import device as devices
from .data import LABELS, Chunk, Farm, Pool, labelled_chunk

BATCH, RATE, WARMUP, SHARPNESS, FRESH = 192, 3e-3, 100, 20.0, 500
POOL, FIRST = 200_000, 16_000
SHARE_LEFT, RESERVE = 0.002, 3.0


WORDS = (OBJECTS, STYLES, PALETTES, GROUNDS, TECHNIQUES)


class Classes(nn.Module):
    """Unit class vectors of objects (286, WIDTH) and of all styles (64 + 1920, WIDTH).

    words: objects, named styles, and perhaps the three parts of composed ones.
    """

    def __init__(self, words: Sequence[Sized] = WORDS):
        super().__init__()
        self.objects, self.named, *parts = (
            nn.Parameter(torch.randn(len(one), WIDTH) * WIDTH**-0.5) for one in words
        )
        self.parts = nn.ParameterList(parts)

    def contents(self) -> torch.Tensor:
        return functional.normalize(self.objects, dim=1)

    def styles(self) -> torch.Tensor:
        if not self.parts:
            return functional.normalize(self.named, dim=1)
        palettes, grounds, techniques = self.parts
        composed = palettes[:, None, None] + grounds[:, None] + techniques  # order of COMPOSED
        return functional.normalize(torch.cat([self.named, composed.flatten(0, 2)]), dim=1)


class Candidate:
    """One judge in training: its nets, class vectors, optimiser and random numbers."""

    def __init__(self, seed: int, device: torch.device, words: Sequence[Sized] = WORDS):
        torch.manual_seed(seed)
        self.seed = seed
        self.judge = Judge().to(device)
        self.classes = Classes(words).to(device)
        parameters = [*self.judge.parameters(), *self.classes.parameters()]
        self.optimiser = torch.optim.AdamW(
            parameters, weight_decay=0.02, fused=device.type == "cuda"
        )
        self.generator = torch.Generator(device).manual_seed(seed)

    def train_step(self, pool: Pool, rate: float, batch: int) -> None:
        images, labels = pool.batch(batch, self.generator)
        images = spoilt(images, self.generator).contiguous(memory_format=torch.channels_last)
        device, loss = images.device, 0.0
        for k, (net, vectors) in enumerate(
            (
                (self.judge.content, self.classes.contents()),
                (self.judge.style, self.classes.styles()),
            )
        ):
            with devices.autocast(device, devices.precision(device)):
                embedding = net(images)
            logits = SHARPNESS * embedding.float() @ vectors.T
            loss = loss + functional.cross_entropy(logits, labels[:, k], label_smoothing=0.02)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self.optimiser.step()


def train(out: Path, device: torch.device, minutes: float, workers: int, batch: int = BATCH,
          first: int = FIRST, seeds: tuple[int, ...] = (0, 1), *,
          draw: Callable[[int, int], Chunk] = labelled_chunk, words: Sequence[Sized] = WORDS,
          start: Sequence[Path] = ()) -> list[Path]:  # fmt: skip
    """Train both judges for the given minutes, rendering counted, and save them.

    draw: makes chunks of renders, each with its places in the first two of `words`. start: a file
    for each judge, whose networks it begins with.
    """
    out.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + 60 * minutes - RESERVE
    farm, pool = Farm(draw, 900_000_000, workers), Pool(POOL, device, LABELS)
    pool.fill(farm, first)
    candidates, step = [Candidate(seed, device, words) for seed in seeds], 0
    for candidate, path in zip(candidates, start, strict=False):
        candidate.judge.load_state_dict(load_judge(path).state_dict())
    begun = time.monotonic()
    with tqdm(total=round(end - begun), unit="s", desc="judge", mininterval=10) as bar:
        while (now := time.monotonic()) < end:
            done = (now - begun) / (end - begun)
            rate = RATE * min(1.0, (step + 1) / WARMUP)
            rate *= max(SHARE_LEFT, 0.5 + 0.5 * math.cos(math.pi * done))
            for candidate in candidates:
                candidate.train_step(pool, rate, batch)
            step += 1
            if step % 4 == 0:
                pool.add(farm.ready())
                if device.type == "cuda":
                    torch.cuda.synchronize()  # the time is measured: no step may still be queued
            bar.update(round(now - begun) - bar.n)
    farm.close()
    print(f"judge: {step} steps of {batch}, {pool.written} renders", flush=True)
    paths = []
    for candidate, place in zip(candidates, JUDGES, strict=False):
        target = out / "judge" / place.name
        target.parent.mkdir(parents=True, exist_ok=True)
        details = {"steps": step, "pictures": step * batch, "seconds": round(60 * minutes),
                   "renders": pool.written, "seed": candidate.seed}  # fmt: skip
        state = candidate.judge.state_dict()
        half = {name: value.cpu().half().contiguous() for name, value in state.items()}
        save_file(half, target, {key: str(value) for key, value in details.items()})
        target.chmod(0o644)
        paths.append(target)
    return paths


def spoilt(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Renders as a diffusion model might have drawn them: bent, shifted, blurred, noisy."""
    size, device = len(images), images.device

    def uniform(low, high, *shape):
        return low + (high - low) * torch.rand(shape, generator=generator, device=device)

    bend = uniform(-1, 1, size, 2, 9, 9) * uniform(0, 0.05, size, 1, 1, 1)
    bend = functional.interpolate(bend, images.shape[-1], mode="bicubic")
    zoom = uniform(0.94, 1.06, size, 1, 1)
    place = torch.zeros(size, 2, 3, device=device)
    place[:, 0, 0] = place[:, 1, 1] = zoom[:, 0, 0]
    place[:, :, 2] = uniform(-0.08, 0.08, size, 2)
    grid = functional.affine_grid(place, list(images.shape), align_corners=False)
    grid = grid + bend.permute(0, 2, 3, 1)
    images = functional.grid_sample(images, grid, padding_mode="border", align_corners=False)
    soft = functional.avg_pool2d(functional.pad(images, [1] * 4, mode="replicate"), 3, 1)
    images = images.lerp(soft, uniform(-0.3, 1, size, 1, 1, 1).clamp(0))
    images = images * uniform(0.9, 1.05, size, 1, 1, 1) + uniform(-0.06, 0.06, size, 3, 1, 1)
    noise = torch.randn(images.shape, generator=generator, device=device)
    return (images + noise * uniform(0, 0.12, size, 1, 1, 1)).clamp(-1, 1)


def report(folder: Path) -> None:
    """Print both judges' nearest-prototype accuracies on fresh renders, clean and spoilt."""
    for number, place in enumerate(JUDGES, 1):
        _report(load_judge(folder / place.name), number)


def _report(judge: Judge, number: int) -> None:
    contents, styles = content_prototypes(judge), style_prototypes(judge)
    composed = style_prototypes(judge, COMPOSED, renders=3)
    generator = torch.Generator().manual_seed(1)
    for label, objects, names, known in (
        ("trained objects, trained styles", TRAINED_OBJECTS, TRAINED_STYLES, styles),
        ("held-out objects, held-out styles", HELD_OUT_OBJECTS, HELD_OUT_STYLES, styles),
        ("trained objects, composed styles", TRAINED_OBJECTS, COMPOSED, composed),
    ):
        rng = np.random.default_rng(5)
        asked = [(str(rng.choice(objects)), str(rng.choice(names))) for _ in range(FRESH)]
        renders = [render(*pair, seed=700_000_000 + k) for k, pair in enumerate(asked)]
        clean = as_images(renders)
        for state, images in (("clean", clean), ("spoilt", spoilt(clean, generator))):
            found = nearest(judge.content_embedding(images), contents)
            content = np.mean([f == c for f, (c, _) in zip(found, asked, strict=True)])
            found = nearest(judge.style_embedding(images), known)
            style = np.mean([f == s for f, (_, s) in zip(found, asked, strict=True)])
            print(f"judge {number}, {label}, {state}: "
                  f"content {content:.3f} style {style:.3f} (n {FRESH})")  # fmt: skip
