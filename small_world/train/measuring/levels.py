"""At which noise a caption matters: the error with the right one, and with parts of others."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from ...world import captions
from ...world.render import render, to_tensor_range
from .. import checkpoint, mixture
from ..diffusion import Predictor
from ..host import build_model
from ..text import CaptionEncoder, build_text_model

SIGMAS = (0.4, 1.0, 2.2, 4.6, 10.0, 25.0)
KINDS = ("drawn", "icon", "drawn, composed")
FRESH_SEED = 90_000


@torch.inference_mode()
def levels(path: Path, seed: int, count: int, kinds: Sequence[str]) -> None:
    """Print the mean squared error of the predicted picture of a checkpoint, at several sigmas.

    Of `count` fresh renders a kind, with the right caption, one with another object, one with
    another style, and the empty one. Where the columns differ, the caption matters.
    """
    model, text = build_model(), build_text_model()
    checkpoint.read(path, model, text)
    device = torch.device("cpu")
    predict = Predictor(model.diffusion_model, device)
    encode = CaptionEncoder(text, model, device)
    known = model.model_sampling.sigmas
    rng = np.random.default_rng((seed, 5))
    print("| | sigma | right | another object | another style | none |\n|---|---|---|---|---|---|")
    for kind in kinds:
        pairs, others = ([mixture.pair(kind, rng) for _ in range(count)] for _ in range(2))
        images = torch.stack([
            torch.from_numpy(to_tensor_range(render(*pair, seed=FRESH_SEED + k)))
            for k, pair in enumerate(pairs)
        ])  # fmt: skip
        texts = [
            [captions.plain(*pair) for pair in pairs],
            [captions.plain(b[0], a[1]) for a, b in zip(pairs, others, strict=True)],
            [captions.plain(a[0], b[1]) for a, b in zip(pairs, others, strict=True)],
            [""] * count,
        ]
        encoded = [encode.encode(encode.ids(one)) for one in texts]
        for wanted in SIGMAS:
            step = int((known - wanted).abs().argmin())
            noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(seed))
            sigma = known[step]
            alpha = (1 + sigma**2).rsqrt()
            noisy, steps = alpha * (images + sigma * noise), torch.full((count,), step)
            errors = [
                (alpha * noisy - alpha * sigma * predict(noisy, steps, *one).float() - images)
                .square().mean().item()
                for one in encoded
            ]  # fmt: skip
            print(f"| {kind} | {wanted} | " + " | ".join(f"{e:.4f}" for e in errors) + " |")
