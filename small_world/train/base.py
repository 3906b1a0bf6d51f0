"""Train the base model: v-prediction on a pool of renders, frozen text encoder, averaged weights.

Three quarters of the pictures have half the size, where one costs a quarter, then full size; the
rate falls with a cosine over a number of steps that is fixed, or fitted to a deadline from the
speed measured in the first steps.  Everything needed to go on is kept in one state file.
"""

import math
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from tqdm import tqdm

from ..world import captions
from . import checkpoint
from . import device as devices
from .data import CAPTION_IDS, Chunk, Farm, Pool, captioned_chunk
from .diffusion import NoiseLevels, Predictor, sample, v_loss
from .host import build_model
from .text import CaptionEncoder, build_text_model, pretrain

WARMUP, DROP, DECAY, CLIP, LEAST_RATE = 300, 0.1, 0.9995, 1.0, 0.002
REMEMBERED = 20  # the average covers at most one in so many of the training's steps
HALF_SHARE = 0.75  # of the pictures of a training from random weights
HALF_BATCHES = 4  # pictures of half size for one of full size: a step costs the same
RESERVE = 8.0  # seconds kept for the last save when there is a deadline
CHECK = 50  # steps between looks at the loss
LOOK = [captions.plain(*pair) for pair in (
        ("cat", "comic"), ("house", "blueprint"), ("rocket", "neon"), ("fish", "ocean"),
        ("cup", "poster"), ("crown", "gold"), ("tree", "ink"), ("car", "sunset"),
        ("robot", "comic"), ("carrot", "stained"), ("moon", "sketch"), ("dog", "flat"),
        ("dolphin", "comic"), ("pineapple", "ocean"), ("elephant", "manga"),
        ("trophy", "royal"), ("cat", "crimson dotted outlined"), ("house", "teal checked hatched"),
        ("rocket", "violet striped solid"), ("hut", "rust wavy spotted"),
        ("hedgehog", "azure rayed embossed"), ("cactus", "mint plain wobbly"),
        ("axe", "navy ringed glowing"), ("star", "olive slanted pixelated"),
        ("parrot", "jade"), ("guitar", "brick"), ("pumpkin", "aurora"), ("castle", "noir"),
        ("horse", "pastel"), ("bucket", "pixel"), ("bomb", "arcade"), ("bus", "gingham"),
        )]  # fmt: skip
LOOK_COLUMNS = 8


@dataclass(frozen=True)
class Settings:
    """The settings of one training; the device decides what is `None`."""

    device: str | None = None
    steps: int | None = None
    minutes: float | None = None  # a deadline: decides the steps instead
    batch: int | None = None  # pictures of full size a step
    rate: float | None = None
    noise: str = "lognormal"
    half_share: float | None = None
    pictures: int | None = None  # the pool's size
    first: int | None = None  # renders to wait for before the first step
    workers: int | None = None
    save_seconds: float = 600.0
    compile: bool = False
    record: bool = True  # on a card: start each step as a whole, see device.RecordedStep
    seed: int = 0


DEFAULTS = {
    "cuda": {"steps": 25_000, "batch": 128, "rate": 8e-4, "pictures": 1_000_000, "first": 20_000},
    "cpu": {"steps": 100_000, "batch": 16, "rate": 8e-4, "pictures": 300_000, "first": 8_000},
}


class BaseTraining:
    """Model, optimiser, average and step of one training; saved and resumed as a whole.

    `start` is a checkpoint whose weights and text encoder the training begins with; without one it
    begins with random weights and the text encoder of `text`, or a newly pretrained one.
    `draw` makes the chunks of renders with their captions, `look` are the captions of the sheet.
    """

    def __init__(self, out: Path, settings: Settings, workers: int, start: Path | None = None,
                 text: Path | None = None, draw: Callable[[int, int], Chunk] = captioned_chunk,
                 look: Sequence[str] | None = None):  # fmt: skip
        self.out, self.settings, self.look = out, settings, list(look or LOOK)
        out.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(settings.seed)
        self.device = devices.choose(settings.device)
        defaults = DEFAULTS["cpu" if self.device.type == "cpu" else "cuda"]
        self.steps, self.batch, self.rate, self.pictures, self.first = (
            defaults[name] if getattr(settings, name) is None else getattr(settings, name)
            for name in ("steps", "batch", "rate", "pictures", "first")
        )
        self.half_share = settings.half_share
        if self.half_share is None:
            self.half_share = HALF_SHARE if start is None else 0.0
        model, text_model = build_model(), build_text_model()
        if start is not None:
            checkpoint.read(start, model, text_model)
        elif text is not None:
            text_model.load_state_dict(torch.load(text, weights_only=True))
        else:
            text_model = pretrain(settings.seed)
        self.text_model = text_model.requires_grad_(False)
        self.encode = CaptionEncoder(text_model, model, self.device)
        self.nothing = self.encode.ids([""])
        self.unet = model.diffusion_model.to(self.device)
        self.sigmas = model.model_sampling.sigmas.detach().clone()
        self.levels = NoiseLevels(settings.noise, self.sigmas, self.device)
        self.predict = self.train_predict = Predictor(self.unet, self.device)
        self.parameters = [*self.unet.parameters()]
        self.pool = Pool(self.pictures, self.device, CAPTION_IDS)
        self.state_path = out / "base_state.pt"
        self.reset()
        if self.state_path.is_file():
            self._resume()
        ahead = 3 if self.device.type == "cpu" else 60  # compiling takes time
        self.farm = Farm(draw, settings.seed, workers, first=self.step, ahead=ahead)

    def reset(self) -> None:
        """Optimiser, average and counters of a training that begins with the present weights."""
        if self.device.type == "cuda":
            torch.backends.cudnn.benchmark = True
            torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
        recorded = self.device.type == "cuda" and self.settings.record
        rate = torch.tensor(self.rate, device=self.device) if recorded else self.rate
        self.optimiser = torch.optim.AdamW(
            self.parameters, rate, betas=(0.9, 0.98), weight_decay=0.01,
            fused=self.device.type == "cuda", capturable=recorded,
        )  # fmt: skip
        self.learn = devices.RecordedStep(self._learn) if recorded else self._learn
        self.average = [p.detach().clone() for p in self.parameters]
        self.good = [p.detach().clone() for p in self.parameters]
        self.generator = torch.Generator(self.device).manual_seed(self.settings.seed)
        self.step, self.shown, self.seconds, self.loss, self.brake = 0, 0, 0.0, 1.0, 1.0
        self.running = torch.ones((), device=self.device)
        self._plan(self.steps)

    # --- the plan

    def _plan(self, steps: int) -> None:
        """Steps at half size, then at full size, `steps` in all."""
        ratio = self.half_share / (1 - self.half_share) / HALF_BATCHES
        self.total = max(steps, 2)
        self.half_steps = round(self.total * ratio / (1 + ratio))

    def at_half_size(self) -> bool:
        return self.step < self.half_steps

    def learning_rate(self) -> float:
        """Linear up over WARMUP steps, then a cosine to nothing at the last step."""
        left = 0.5 + 0.5 * math.cos(math.pi * min(1.0, self.step / self.total))
        warm = min(1.0, (self.step + 1) / min(WARMUP, max(1, self.total // 10)))
        return self.rate * self.brake * warm * max(left, LEAST_RATE)

    # --- running

    def run(self) -> Path:
        begun = time.monotonic()
        deadline = None
        if self.settings.minutes is not None:
            deadline = begun + 60 * self.settings.minutes - RESERVE
        self.pool.fill(self.farm, self.first)
        print(f"base: {len(self.pool)} renders after {time.monotonic() - begun:.0f} s", flush=True)
        if self.device.type == "cuda" and self.settings.compile:
            self.compile()
        saved = timed = time.monotonic()
        timed_step, was_half = self.step, self.at_half_size()
        if deadline is not None:
            self._fit(deadline, self.speeds())
            timed, timed_step = time.monotonic(), self.step
        with tqdm(total=self.total, initial=self.step, unit="step", desc="base",
                  mininterval=10, maxinterval=60) as bar:  # fmt: skip
            while self.step < self.total:
                started = time.monotonic()
                self.train_step()
                self.seconds += time.monotonic() - started
                bar.update(1)
                if self.step % CHECK == 0:
                    self.check()
                    now = time.monotonic()
                    if self.at_half_size() != was_half:
                        was_half, timed, timed_step = self.at_half_size(), now, self.step
                    elif deadline is not None and not was_half and self.step - timed_step >= 200:
                        self._finish_by(deadline, (now - timed) / (self.step - timed_step))
                        bar.total = self.total
                    bar.set_postfix(loss=f"{self.loss:.4f}", pool=len(self.pool), refresh=False)
                    if deadline is not None and now > deadline:
                        break
                    if now - saved > self.settings.save_seconds:
                        self.save()
                        saved = time.monotonic()
        self.check()
        self.save()
        self.farm.close()
        return self.write()

    def speeds(self) -> tuple[float, float]:
        """Seconds a step at half and at full size, of a few real steps each."""
        seconds, planned = [], self.half_steps
        for half in (True, False):
            if half and not self.half_share:  # nothing is trained at half size
                seconds.append(0.0)
                continue
            self.half_steps = 10**9 if half else 0
            for count in (5, 20):
                self._wait()
                started = time.monotonic()
                for _ in range(count):
                    self.train_step()
                self._wait()
            seconds.append((time.monotonic() - started) / count)
        self.half_steps = planned
        print("base: seconds a step, half and full size:", *(f"{s:.4f}" for s in seconds))
        return seconds[0], seconds[1]

    def _fit(self, deadline: float, speeds: tuple[float, float]) -> None:
        ratio = self.half_share / (1 - self.half_share) / HALF_BATCHES
        full = (deadline - time.monotonic()) / (ratio * speeds[0] + speeds[1])
        self._plan(self.step + round(full * (1 + ratio)))
        print(f"base: {self.total} steps fit, {self.half_steps} of them at half size", flush=True)

    def _finish_by(self, deadline: float, seconds: float) -> None:
        """Make the step at the deadline the last one; called when the half-size steps are done."""
        self.total = max(self.step + 1, self.step + int((deadline - time.monotonic()) / seconds))

    def train_step(self) -> None:
        if self.step % 4 == 0:
            self.pool.add(self.farm.ready())
        self._set_rate(self.learning_rate())
        half = self.at_half_size()
        size = self.batch * HALF_BATCHES if half else self.batch
        images, ids = self.pool.batch(size, self.generator)
        images = torch.nn.functional.avg_pool2d(images, 2) if half else images
        context, vector = self.encode.encode(self._captions(ids))
        steps = self.levels.draw(size, self.generator, self.step / self.total)
        noise = torch.randn(images.shape, generator=self.generator, device=self.device)
        loss = self.learn(images, context, vector, steps, noise)
        decay = min(DECAY, 1 - REMEMBERED / self.total, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            torch._foreach_lerp_(self.average, [p.detach() for p in self.parameters], 1 - decay)
            self.running.lerp_(loss, 0.02)
        self.step += 1
        self.shown += size

    def _learn(self, images, context, vector, steps, noise) -> torch.Tensor:
        """One step of the optimiser; the loss."""
        loss = v_loss(self.train_predict, self.levels, images, context, vector, steps, noise)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, CLIP)
        self.optimiser.step()
        return loss.detach()

    def _set_rate(self, rate: float) -> None:
        for group in self.optimiser.param_groups:
            if isinstance(group["lr"], torch.Tensor):  # a recorded step reads it from its place
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate

    def _captions(self, ids: torch.Tensor) -> torch.Tensor:
        """One caption of each render, a share DROP of them empty: (B, CAPTIONS, L) -> (B, L)."""
        size, device = len(ids), self.device
        which = torch.randint(ids.shape[1], (size,), generator=self.generator, device=device)
        chosen = ids[torch.arange(size, device=device), which]
        dropped = torch.rand(size, 1, generator=self.generator, device=device) < DROP
        return torch.where(dropped, self.nothing, chosen)

    def check(self) -> None:
        """Check the loss; where it is not finite, take the last good weights and half the rate."""
        self.loss = self.running.item()
        finite = math.isfinite(self.loss)
        with torch.no_grad():
            if finite:
                torch._foreach_copy_(self.good, [p.detach() for p in self.parameters])
                return
            print(f"base: the loss at step {self.step} is not finite; half the rate", flush=True)
            for target in ([p.detach() for p in self.parameters], self.average):
                torch._foreach_copy_(target, self.good)
        for state in self.optimiser.state.values():
            for value in state.values():
                value.zero_()
        self.running.fill_(0.1)
        self.brake *= 0.5

    def compile(self) -> None:
        """Use a compiled UNet in training if it can be had and is faster."""
        eager, started = self.speeds(), time.monotonic()
        self.train_predict = torch.compile(self.predict.__call__, dynamic=False)
        try:
            compiled = self.speeds()
        except (RuntimeError, OSError, ImportError, AssertionError,
                subprocess.SubprocessError) as error:  # fmt: skip
            print(f"base: not compiled ({type(error).__name__}: {str(error)[:300]})", flush=True)
            self.train_predict = self.predict
            return
        print(f"base: compiled in {time.monotonic() - started:.0f} s", flush=True)
        if sum(compiled) > sum(eager):
            self.train_predict = self.predict
            print("base: goes on uncompiled, which is faster", flush=True)

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    # --- keeping and showing

    def averaged(self) -> dict[str, torch.Tensor]:
        names = [name for name, _ in self.unet.named_parameters()]
        return dict(zip(names, self.average, strict=True))

    def pictures_of(self, texts: list[str], seed: int = 1, **how) -> torch.Tensor:
        """(B, 3, side, side) in [-1, 1] by the averaged weights."""
        kept = [p.detach().clone() for p in self.parameters]
        with torch.no_grad():
            torch._foreach_copy_([p.detach() for p in self.parameters], self.average)
            images = sample(self.predict, self.sigmas, self.encode, texts, seed, **how)
            torch._foreach_copy_([p.detach() for p in self.parameters], kept)
        return images

    def save(self) -> None:
        """State for resuming, the checkpoint so far, and a sheet of pictures."""
        state = {
            "unet": self.unet.state_dict(),
            "text": self.text_model.state_dict(),
            "average": self.averaged(),
            "optimiser": self.optimiser.state_dict(),
            "place": torch.tensor(
                [self.step, self.shown, self.seconds, self.loss, self.brake, self.total,
                 self.half_steps], dtype=torch.float64,
            ),
        }  # fmt: skip
        partial = self.state_path.with_suffix(".partial")
        torch.save(state, partial)
        partial.replace(self.state_path)
        self.write()
        side = 32 if self.at_half_size() else 64
        images = self.pictures_of(self.look, side=side, cfg=4.0)
        sheet(images).save(self.out / "look.png")
        print(f"base: step {self.step}, {self.shown} pictures, {self.pool.written} renders, "
              f"{self.seconds:.0f} s, loss {self.loss:.4f}", flush=True)  # fmt: skip

    def _resume(self) -> None:
        state = torch.load(self.state_path, weights_only=True, map_location=self.device)
        self.unet.load_state_dict(state["unet"])
        self.text_model.load_state_dict(state["text"])
        self.average = [state["average"][name] for name, _ in self.unet.named_parameters()]
        groups = [{k: g[k] for k in ("lr", "capturable")} for g in self.optimiser.param_groups]
        self.optimiser.load_state_dict(state["optimiser"])
        for group, own in zip(self.optimiser.param_groups, groups, strict=True):
            group.update(own)  # this device's, whichever wrote the file
        step, shown, self.seconds, self.loss, self.brake, total, half = state["place"].tolist()
        self.step, self.shown, self.total, self.half_steps = (
            int(value) for value in (step, shown, total, half)
        )
        self.generator.manual_seed(self.settings.seed * 1_000_003 + self.step)
        self.running.fill_(self.loss)
        self.good = [p.detach().clone() for p in self.parameters]

    def write(self) -> Path:
        path = self.out / "checkpoints" / "craft_small_world.safetensors"
        details = {"steps": self.step, "pictures": self.shown, "seconds": round(self.seconds),
                   "renders": self.pool.written, "batch": self.batch, "rate": self.rate,
                   "noise": self.settings.noise, "half_share": self.half_share,
                   "device": self._name(), "seed": self.settings.seed,
                   "final_loss": round(self.loss, 5)}  # fmt: skip
        metadata = {key: str(value) for key, value in details.items()}
        checkpoint.write(path, self.averaged(), self.text_model, metadata)
        return path

    def _name(self) -> str:
        return torch.cuda.get_device_name() if self.device.type == "cuda" else "cpu"


def sheet(images: torch.Tensor, columns: int = LOOK_COLUMNS) -> Image.Image:
    """(B, 3, side, side) in [-1, 1] -> one picture with `columns` in a row."""
    rows = [torch.cat(list(row), dim=2) for row in images.split(columns)]
    joined = torch.cat(rows, dim=1).permute(1, 2, 0)
    return Image.fromarray(((joined + 1) * 127.5).round().byte().numpy())
