"""Train the judge: cosine classifiers over all objects and all styles, on spoilt renders.

The class vector of a composed style is the sum of its three words' vectors, so that a combination
never drawn has its place too.  Renders are bent, shifted, blurred and made noisy, because the
pictures to be judged come from a diffusion model and not from the renderer.
"""

import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional
from tqdm import tqdm

from ..judge import (
    JUDGE,
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
from .data import render_to

PICTURES, BATCH = 60_000, 96
RATE, SHARPNESS, FRESH = 3e-3, 20.0, 500
OBJECT_NAMES, STYLE_NAMES = tuple(OBJECTS), (*STYLES, *COMPOSED)


class Classes(nn.Module):
    """Unit class vectors of objects (286, WIDTH) and of all styles (46 + 1920, WIDTH)."""

    def __init__(self):
        super().__init__()
        self.objects, self.named, *parts = (
            nn.Parameter(torch.randn(len(words), WIDTH) * WIDTH**-0.5)
            for words in (OBJECT_NAMES, STYLES, PALETTES, GROUNDS, TECHNIQUES)
        )
        self.parts = nn.ParameterList(parts)

    def contents(self) -> torch.Tensor:
        return functional.normalize(self.objects, dim=1)

    def styles(self) -> torch.Tensor:
        palettes, grounds, techniques = self.parts
        composed = palettes[:, None, None] + grounds[:, None] + techniques  # order of COMPOSED
        return functional.normalize(torch.cat([self.named, composed.flatten(0, 2)]), dim=1)


def train(out: Path, seed: int, minutes: float) -> Path:
    """Train for the given minutes (rendering not counted), save, print accuracies."""
    torch.manual_seed(seed)
    out.mkdir(parents=True, exist_ok=True)
    pairs = draw_pairs(PICTURES, seed)
    path = out / f"judge_pool_{PICTURES}_{seed}.npy"
    if not path.is_file():
        jobs = ((*pair, 900_000_000 + k) for k, pair in enumerate(pairs))
        render_to(path, jobs, PICTURES)
    pictures = np.load(path, mmap_mode="r")
    labels = torch.tensor([[OBJECT_NAMES.index(c), STYLE_NAMES.index(s)] for c, s in pairs])
    judge, classes = Judge().to(memory_format=torch.channels_last), Classes()
    optimiser = torch.optim.AdamW([*judge.parameters(), *classes.parameters()], weight_decay=0.02)
    rng, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    seconds, step = 0.0, 0
    with tqdm(total=round(60 * minutes), unit="s", desc="judge") as bar:
        while seconds < 60 * minutes:
            started = time.monotonic()
            for group in optimiser.param_groups:
                warm = min(1.0, (step + 1) / 100)
                group["lr"] = RATE * warm * (1.01 - seconds / (60 * minutes))
            chosen = rng.integers(PICTURES, size=BATCH)
            images = torch.from_numpy(pictures[chosen]).permute(0, 3, 1, 2).float() / 127.5 - 1
            losses = _losses(judge, classes, spoilt(images, generator), labels[chosen])
            optimiser.zero_grad(set_to_none=True)
            sum(losses).backward()
            optimiser.step()
            step, seconds = step + 1, seconds + time.monotonic() - started
            if step % 20 == 0:
                content, style = (f"{loss.item():.3f}" for loss in losses)
                bar.set_postfix(step=step, content=content, style=style, refresh=False)
            bar.update(round(seconds) - bar.n)
    target = out / "judge" / JUDGE.name
    target.parent.mkdir(parents=True, exist_ok=True)
    details = {"steps": step, "pictures": step * BATCH, "seconds": round(seconds), "seed": seed}
    half = {name: value.half().contiguous() for name, value in judge.state_dict().items()}
    save_file(half, target, {key: str(value) for key, value in details.items()})
    target.chmod(0o644)
    report(load_judge(target))
    return target


def draw_pairs(count: int, seed: int) -> list[tuple[str, str]]:
    """Any object in any style; half of the styles are named, half composed."""
    rng = np.random.default_rng(seed)
    return [
        (
            OBJECT_NAMES[rng.integers(len(OBJECT_NAMES))],
            STYLE_NAMES[rng.integers(len(STYLES)) if k % 2 else rng.integers(len(STYLE_NAMES))],
        )
        for k in range(count)
    ]


def _losses(judge: Judge, classes: Classes, images, labels) -> list[torch.Tensor]:
    """Cross-entropies of content and style."""
    images = images.contiguous(memory_format=torch.channels_last)
    losses = []
    for k, (net, vectors) in enumerate(
        ((judge.content, classes.contents()), (judge.style, classes.styles()))
    ):
        with torch.autocast("cpu", torch.bfloat16):
            embedding = net(images)
        logits = SHARPNESS * embedding.float() @ vectors.T
        losses.append(functional.cross_entropy(logits, labels[:, k], label_smoothing=0.02))
    return losses


def spoilt(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Renders as a diffusion model might have drawn them: bent, shifted, blurred, noisy."""
    size = len(images)

    def uniform(low, high, *shape):
        return low + (high - low) * torch.rand(shape, generator=generator)

    bend = uniform(-1, 1, size, 2, 9, 9) * uniform(0, 0.05, size, 1, 1, 1)
    bend = functional.interpolate(bend, images.shape[-1], mode="bicubic")
    zoom = uniform(0.94, 1.06, size, 1, 1)
    place = torch.zeros(size, 2, 3)
    place[:, 0, 0] = place[:, 1, 1] = zoom[:, 0, 0]
    place[:, :, 2] = uniform(-0.08, 0.08, size, 2)
    grid = functional.affine_grid(place, list(images.shape), align_corners=False)
    grid = grid + bend.permute(0, 2, 3, 1)
    images = functional.grid_sample(images, grid, padding_mode="border", align_corners=False)
    soft = functional.avg_pool2d(functional.pad(images, [1] * 4, mode="replicate"), 3, 1)
    images = images.lerp(soft, uniform(-0.3, 1, size, 1, 1, 1).clamp(0))
    images = images * uniform(0.9, 1.05, size, 1, 1, 1) + uniform(-0.06, 0.06, size, 3, 1, 1)
    noise = torch.randn(images.shape, generator=generator) * uniform(0, 0.12, size, 1, 1, 1)
    return (images + noise).clamp(-1, 1)


def report(judge: Judge) -> None:
    """Print nearest-prototype accuracies on fresh renders, clean and spoilt."""
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
            print(f"judge, {label}, {state}: content {content:.3f} style {style:.3f} (n {FRESH})")
