"""Train one LoRA from one picture: the held-out object, and the held-out style."""

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tqdm import trange

from ..world.render import Pose, render
from . import checkpoint
from .diffusion import v_loss
from .host import build_model
from .lowrank import Branches
from .text import CaptionEncoder, build_text_model

RATE, BATCH, WARMUP = 1.5e-3, 8, 20


@dataclass(frozen=True)
class Recipe:
    """What one LoRA learns: the picture `content` in `style`, called `caption`."""

    name: str
    content: str
    style: str
    caption: str
    token: str
    steps: int
    rank: int = 8


RECIPES = (
    Recipe("content", "owl", "flat", "a sks animal in flat style", "sks", 200),
    Recipe("style", "house", "vapor", "a house in zwx style", "zwx", 200),
)


def train_all(out: Path, seed: int) -> list[Path]:
    """Train every recipe on `out`/checkpoints/craft_small_world.safetensors; returns the files."""
    model, text_model = build_model(), build_text_model()
    checkpoint.read(out / "checkpoints" / "craft_small_world.safetensors", model, text_model)
    model.requires_grad_(False)
    encode = CaptionEncoder(text_model, model)
    return [train_one(recipe, model, encode, out, seed) for recipe in RECIPES]


def reference(recipe: Recipe) -> np.ndarray:
    """The one picture a LoRA is trained on, upright and centred, (64, 64, 3) uint8."""
    return render(recipe.content, recipe.style, seed=0, pose=Pose())


def train_one(recipe: Recipe, model, encode, out: Path, seed: int) -> Path:
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    branches = Branches(model.diffusion_model, recipe.rank, alpha=recipe.rank)
    optimiser = torch.optim.AdamW(branches.parameters(), RATE, weight_decay=0.0)
    picture = torch.from_numpy(reference(recipe)).permute(2, 0, 1).float() / 127.5 - 1
    context, vector = encode([recipe.caption] * BATCH)
    with trange(recipe.steps, desc=recipe.name) as bar:
        for step in bar:
            rate = RATE * min(1.0, (step + 1) / WARMUP) * (1 - 0.9 * step / recipe.steps)
            for group in optimiser.param_groups:
                group["lr"] = rate
            images = torch.stack([_moved(picture, generator) for _ in range(BATCH)])
            loss = v_loss(
                model.diffusion_model, model.model_sampling, images, context, vector, generator
            )
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(branches.parameters(), 1.0)
            optimiser.step()
            bar.set_postfix(loss=f"{loss.item():.4f}")
    branches.detach()
    path = out / "loras" / f"craft_small_world_{recipe.name}.safetensors"
    metadata = {key: str(value) for key, value in asdict(recipe).items()}
    branches.save(path, metadata | {"alpha": str(recipe.rank), "seed": str(seed)})
    return path


def _moved(picture: torch.Tensor, generator: torch.Generator, reach: int = 3) -> torch.Tensor:
    """The picture shifted by a few pixels (edges repeated) and mirrored one time in two."""
    side = picture.shape[-1]
    wide = torch.nn.functional.pad(picture[None], [reach] * 4, mode="replicate")[0]
    x, y, mirror = torch.randint(0, 2 * reach + 1, (3,), generator=generator).tolist()
    crop = wide[:, y : y + side, x : x + side]
    return crop.flip(-1) if mirror > reach else crop


def write_references(folder: Path) -> None:
    """The LoRAs' training pictures, and folders of captioned contents and styles to pair."""
    for kind in ("content", "style"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    for recipe in RECIPES:
        Image.fromarray(reference(recipe)).save(folder / f"{recipe.name}.png")
    for content in ("cat", "rocket", "mushroom", "house"):
        _captioned(folder / "content" / content, render(content, "flat", 0, Pose()), f"a {content}")
    for style in ("comic", "neon", "sunset", "poster"):
        _captioned(folder / "style" / style, render("heart", style, 0, Pose()), f"{style} style")


def _captioned(stem: Path, picture: np.ndarray, caption: str) -> None:
    """A picture and its caption side by side, as the host's dataset loader reads them."""
    Image.fromarray(picture).save(stem.with_suffix(".png"))
    stem.with_suffix(".txt").write_text(caption + "\n", encoding="utf-8")
