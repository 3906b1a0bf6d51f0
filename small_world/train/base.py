"""Train the base model: v-prediction on the pool, frozen text encoder, averaged weights.

The first part of the time goes to pictures of half the size, four times as many a minute; the
rest to full size.
"""

import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from ..world import captions
from . import checkpoint
from .data import Pool
from .diffusion import sample, v_loss
from .host import build_model
from .text import CaptionEncoder, build_text_model, pretrain

RATE, WARMUP, DROP, DECAY = 8e-4, 150, 0.1, 0.995
HALF_SIZE_UNTIL = 0.4  # of the minutes; a start has it behind it
COOL_DOWN = 0.6  # the last part of the minutes, in which the rate falls to zero
HALF_BATCH, FULL_BATCH = 48, 16
SAVE_SECONDS = 600
LOOK = [("cat", "comic"), ("house", "blueprint"), ("rocket", "neon"), ("fish", "ocean"),
        ("cup", "poster"), ("crown", "gold"), ("tree", "ink"), ("car", "sunset"),
        ("robot", "comic"), ("carrot", "stained"), ("moon", "sketch"), ("dog", "flat"),
        ("helicopter", "comic"), ("pineapple", "ocean"), ("giraffe", "forest"),
        ("trophy", "royal"), ("cat", "crimson dotted outlined"), ("house", "teal checked hatched"),
        ("rocket", "violet striped solid"), ("hut", "rust wavy spotted"),
        ("lion", "azure rayed embossed"), ("cactus", "mint plain wobbly"),
        ("axe", "navy ringed glowing"), ("star", "olive slanted pixelated")]  # fmt: skip
LOOK_COLUMNS = 8


class BaseTraining:
    """Model, optimiser, average and clock of one training; saved and resumed as a whole."""

    def __init__(self, out: Path, minutes: float, seed: int, pictures: int, start: Path | None):
        self.out, self.minutes, self.seed = out, minutes, seed
        out.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(seed)
        self.model = build_model()
        self.text_model = self._text_model(out / "text.pt", start)
        self.unet = self.model.diffusion_model
        self.encode = CaptionEncoder(self.text_model, self.model)
        self.pool = Pool(out, pictures, seed)
        self.optimiser = torch.optim.AdamW(
            self.unet.parameters(), RATE, betas=(0.9, 0.98), weight_decay=0.01
        )
        self.average = {k: v.detach().clone() for k, v in self.unet.state_dict().items()}
        self.step, self.pictures, self.seconds, self.loss = 0, 0, 0.0, 1.0
        self.half_size_until = HALF_SIZE_UNTIL if start is None else 0.0
        self.state_path = out / "base_state.pt"
        if self.state_path.is_file():
            self._resume()

    def _text_model(self, path: Path, start: Path | None):
        """The encoder of this training; `start` gives the UNet's weights too, and a teacher."""
        text_model = build_text_model()
        if start is not None:
            checkpoint.read(start, self.model, text_model)
        if not path.is_file():
            teacher = None if start is None else text_model.requires_grad_(False)
            torch.save(pretrain(self.seed, teacher).state_dict(), path)
        text_model.load_state_dict(torch.load(path, weights_only=True))
        return text_model.requires_grad_(False)

    def progress(self) -> float:
        """0 at the start, 1 when the minutes are used; the wall clock decides the step count."""
        return min(1.0, self.seconds / (60 * self.minutes))

    def at_half_size(self) -> bool:
        return self.progress() < self.half_size_until

    def run(self) -> Path:
        saved = time.monotonic()
        with tqdm(total=round(60 * self.minutes), unit="s", desc="base") as bar:
            bar.update(round(self.seconds))
            while self.progress() < 1:
                started = time.monotonic()
                self.train_step()
                self.seconds += time.monotonic() - started
                bar.set_postfix(step=self.step, loss=f"{self.loss:.4f}", refresh=False)
                bar.update(round(self.seconds) - bar.n)
                if time.monotonic() - saved > SAVE_SECONDS:
                    self.save()
                    saved = time.monotonic()
        self.save()
        return self.write()

    def train_step(self) -> None:
        rng = np.random.default_rng((self.seed, self.step))
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.step)
        rate = RATE * min(1.0, (1.0 - self.progress()) / COOL_DOWN + 0.01)
        for group in self.optimiser.param_groups:
            group["lr"] = rate * min(1.0, (self.step + 1) / WARMUP)
        half = self.at_half_size()
        images, texts = self.pool.batch(HALF_BATCH if half else FULL_BATCH, rng, DROP)
        images = torch.nn.functional.avg_pool2d(images, 2) if half else images
        self.pictures += len(images)
        context, vector = self.encode(texts)
        loss = v_loss(self.unet, self.model.model_sampling, images, context, vector, generator)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.unet.parameters(), 1.0)
        self.optimiser.step()
        decay = min(DECAY, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            current = self.unet.state_dict()
            torch._foreach_lerp_(
                [*self.average.values()], [current[k] for k in self.average], 1 - decay
            )
        self.step += 1
        self.loss += 0.02 * (loss.item() - self.loss)

    def save(self) -> None:
        """State for resuming, and a sheet of pictures by the averaged weights."""
        state = {
            "unet": self.unet.state_dict(),
            "average": self.average,
            "optimiser": self.optimiser.state_dict(),
            "clock": torch.tensor(
                [self.step, self.pictures, self.seconds, self.loss], dtype=torch.float64
            ),
        }
        partial = self.state_path.with_suffix(".partial")
        torch.save(state, partial)
        partial.replace(self.state_path)
        current = {k: v.clone() for k, v in self.unet.state_dict().items()}
        self.unet.load_state_dict(self.average)
        texts = [captions.plain(*pair) for pair in LOOK]
        side = 32 if self.at_half_size() else 64
        images = sample(self.model, self.encode, texts, seed=1, side=side)
        self.unet.load_state_dict(current)
        rows = [torch.cat(list(row), dim=2) for row in images.split(LOOK_COLUMNS)]
        sheet = torch.cat(rows, dim=1).permute(1, 2, 0)
        picture = Image.fromarray(((sheet + 1) * 127.5).round().byte().numpy())
        picture.save(self.out / f"look_{self.step:06d}.png")

    def _resume(self) -> None:
        state = torch.load(self.state_path, weights_only=True)
        self.unet.load_state_dict(state["unet"])
        self.average = state["average"]
        self.optimiser.load_state_dict(state["optimiser"])
        step, pictures, self.seconds, self.loss = state["clock"].tolist()
        self.step, self.pictures = int(step), int(pictures)

    def write(self) -> Path:
        path = self.out / "checkpoints" / "craft_small_world.safetensors"
        details = {"steps": self.step, "pictures": self.pictures, "seconds": round(self.seconds)}
        details |= {"seed": self.seed, "final_loss": round(self.loss, 5)}
        metadata = {key: str(value) for key, value in details.items()}
        checkpoint.write(path, self.average, self.text_model, metadata)
        return path
