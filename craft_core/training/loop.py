"""One training loop for every recipe: AdamW (or plain steps), warm-up, cosine decay; resumable to
the same bytes."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

import torch
from torch import Tensor

from ..errors import CraftError, listed
from ..json_text import shallow_json
from ..lora.factors import is_plain_float
from ..tensor_file import BadHeader, Kind, decoding, read, read_metadata, read_shapes, save
from .losses import Draw

STATE_FORMAT = "craft_training_state"
STEPS_ASKED = "steps_asked"  # in the metadata of results and states
STATE = Kind(
    "training state", "Start afresh without resuming", STATE_FORMAT,
    choose="Choose the file the training left, or start afresh",
)  # fmt: skip
CURVE_POINTS = 200
OPTIMISERS = {"adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}
_MOMENTS = ("exp_avg", "exp_avg_sq")  # none of a parameter that had no gradient yet
_UPDATES = "updates"  # of a parameter that had no gradient in some of the steps


StepCallback = Callable[["Training"], None]
"""Called after each step; it may raise to stop the training."""


class Recipe(Protocol):
    """What is trained. The loop owns the optimiser and the clock, the recipe everything else."""

    def parameters(self) -> Mapping[str, Tensor]:
        """Leaf tensors by name."""
        ...

    def backward(self, draw: Draw, share: float) -> Mapping[str, float]:
        """Add `share` times the step's gradients to the parameters; the loss's terms by name.

        The loss is the sum of the terms.
        """
        ...

    def settings(self) -> Mapping[str, str]:
        """What it is trained with: kept in the files, and the same where a training resumes."""
        ...

    def write(self, path: Path, metadata: Mapping[str, str]) -> None:
        """Save what is learned so far as a file that can be used."""
        ...


@dataclass(frozen=True)
class Pace:
    """How fast and how long. rate rises linearly over `warmup` steps, then falls as a cosine to
    min_rate at the last step. steps: 0 leaves everything as the recipe starts. accumulate: batches
    whose gradients make one step. max_norm: the length gradients are cut to, 0 for none.
    optimiser: adamw, or sgd for the gradient as it is."""

    steps: int
    rate: float
    warmup: int = 0
    min_rate: float = 0.0
    weight_decay: float = 0.0
    max_norm: float = 1.0
    accumulate: int = 1
    seed: int = 0
    optimiser: str = "adamw"

    def __post_init__(self) -> None:
        if self.steps < 0 or self.accumulate < 1 or self.warmup < 0:
            raise CraftError(
                f"steps = {self.steps}, accumulate = {self.accumulate}, warmup = {self.warmup}",
                "Accumulated batches are 1 or more, steps and the warm-up 0 or more",
                "Set such numbers",
            )
        if not (math.isfinite(self.rate) and self.rate > 0 and 0 <= self.min_rate <= self.rate):
            raise CraftError(
                f"learning rate {self.rate:g}, falling to {self.min_rate:g}",
                "A learning rate is above 0, and its minimum is not above it",
                "For AdamW on low-rank factors try 1e-4",
            )

    def rate_at(self, step: int) -> float:
        """The learning rate of step 0, 1, ..., steps - 1."""
        if step < self.warmup:
            return self.rate * (step + 1) / (self.warmup + 1)
        share = (step - self.warmup) / max(1, self.steps - 1 - self.warmup)
        falling = 0.5 + 0.5 * math.cos(math.pi * min(1.0, share))
        return self.min_rate + (self.rate - self.min_rate) * falling


class Training:
    """A recipe under way: parameters, optimiser, step and loss curve, saved and resumed whole."""

    def __init__(self, recipe: Recipe, pace: Pace) -> None:
        self.recipe, self.pace = recipe, pace
        self.parameters = dict(recipe.parameters())
        assert self.parameters, "a recipe has parameters"
        kind = OPTIMISERS[pace.optimiser]
        self.optimiser: torch.optim.Optimizer = kind(
            list(self.parameters.values()), pace.rate, weight_decay=pace.weight_decay
        )
        self.losses: list[float] = []
        self.terms: dict[str, float] = {}

    @property
    def step(self) -> int:
        """Steps done."""
        return len(self.losses)

    def run(self, watch: StepCallback = lambda training: None) -> None:
        """Train to the last step; `watch` is called after each and may raise to stop."""
        while self.step < self.pace.steps:
            self.advance()
            watch(self)

    def advance(self) -> None:
        """One step. CraftError, and parameters as they were, if the loss is not finite."""
        for group in self.optimiser.param_groups:
            group["lr"] = self.pace.rate_at(self.step)
        self.optimiser.zero_grad(set_to_none=True)
        terms: dict[str, float] = {}
        share = 1 / self.pace.accumulate
        for part in range(self.pace.accumulate):
            draw = Draw(self.pace.seed, self.step * self.pace.accumulate + part)
            for name, value in self.recipe.backward(draw, share).items():
                terms[name] = terms.get(name, 0.0) + share * value
        loss = sum(terms.values())
        norm = self._gradient_norm()
        if not math.isfinite(loss + norm):
            raise self._diverged(loss)
        self.optimiser.step()
        self.losses.append(loss)
        self.terms = terms

    def _gradient_norm(self) -> float:
        limit = self.pace.max_norm or math.inf
        return float(torch.nn.utils.clip_grad_norm_(list(self.parameters.values()), limit))

    def _diverged(self, loss: float) -> CraftError:
        last = f"; the step before had {self.losses[-1]:.4g}" if self.losses else ""
        return CraftError(
            f"Step {self.step + 1} of {self.pace.steps} gave the loss {loss:g} or gradients that "
            f"are not finite{last}",
            "Training goes on while both are finite; nothing was saved over earlier files",
            "Lower the learning rate, train in bf16 or fp32 rather than fp16, and look for "
            "broken images",
        )

    def write(self, path: Path, metadata: Mapping[str, str] = MappingProxyType({})) -> None:
        """Save the result as it is now, with how it was trained in the file's metadata."""
        curve = json.dumps([float(f"{value:.5g}") for value in _thinned(self.losses)])
        own = {"training": json.dumps(self.settings(), sort_keys=True), "loss_curve": curve}
        own |= {"steps_done": str(self.step), STEPS_ASKED: str(self.pace.steps)}
        self.recipe.write(path, {**own, **metadata})

    def save(
        self,
        path: Path,
        metadata: Mapping[str, str] = MappingProxyType({}),
        *,
        exclusive: bool = False,
        over: Callable[[], bool] = lambda: True,
    ) -> None:
        """Everything needed to go on, as one safetensors file. metadata: see state_metadata.

        CraftError, and an earlier file as it was, if it cannot be written or holds NaN or infinity;
        Taken if it is exclusive and there is a file, or where over says no, which is asked when the
        file is about to be moved to its name.
        """
        tensors = {f"parameter.{name}": value for name, value in self.parameters.items()}
        for name, value in self.parameters.items():
            moments = self.optimiser.state.get(value, {})
            tensors |= {f"{kind}.{name}": moments[kind] for kind in _MOMENTS if kind in moments}
            if "step" in moments and int(moments["step"]) != self.step:
                updates = float(moments["step"])
                tensors[f"{_UPDATES}.{name}"] = torch.tensor(updates, dtype=torch.float64)
        tensors["losses"] = torch.tensor(self.losses, dtype=torch.float64)
        _require_finite(path, tensors)
        recipe = json.dumps(self.settings(), sort_keys=True)
        own = {"format": STATE_FORMAT, "recipe": recipe, STEPS_ASKED: str(self.pace.steps)}
        whole = {**metadata, **own}
        save(path, tensors, whole, "A training state", exclusive=exclusive, over=over)

    def resume(self, path: Path) -> None:
        """Go on where `save` left off. CraftError, and nothing changed, if the file is of another
        training, damaged, or holds what this training's types cannot or no training leaves."""
        tensors, metadata = read(path, STATE)
        stored = {"optimiser": "adamw", **_recipe(path, metadata)}  # the only one once
        own = self.settings()
        differing = sorted(k for k in {*stored, *own} if stored.get(k) != own.get(k))
        if differing:
            changes = (f"{k}: {stored.get(k)} then, {own.get(k)} now" for k in differing)
            raise CraftError(
                f"{path.name} is the state of another training ({listed(changes)})",
                "A training is resumed with the settings it was started with",
                "Set them back, turn resume off, or choose another name",
            )
        self._require_mine(path, tensors)
        count = len(tensors["losses"])
        if count > self.pace.steps:
            raise CraftError(
                f"{path.name} has done {count} steps, {self.pace.steps} were asked for",
                "A training can be resumed towards as many steps or more",
                "Ask for more steps, turn resume off, or choose another name",
            )
        tensors = self._converted(path, tensors)
        _require_finite(path, tensors)
        self._require_moments(path, tensors)
        with torch.no_grad():
            for name, value in self.parameters.items():
                value.copy_(tensors[f"parameter.{name}"])
                self.optimiser.state.pop(value, None)
                if f"{_MOMENTS[0]}.{name}" in tensors:
                    moments = {kind: tensors[f"{kind}.{name}"] for kind in _MOMENTS}
                    updates = float(tensors.get(f"{_UPDATES}.{name}", count))
                    self.optimiser.state[value] = {"step": torch.tensor(updates), **moments}
        self.losses = tensors["losses"].tolist()

    def _require_mine(self, path: Path, tensors: Mapping[str, Tensor]) -> None:
        """CraftError unless the tensors are the parameters', their moments' and the losses'.

        After a step of AdamW some parameter has moments. One that has had no gradient has none,
        one that has had fewer gradients than there were steps has their number.
        """
        losses = tensors.get("losses")
        readable = losses is not None and losses.ndim == 1
        if not readable or not all(map(is_plain_float, tensors.values())):
            raise _foreign(path)
        found = {key: one.shape for key, one in tensors.items() if key != "losses"}
        shapes = {f"parameter.{name}": one.shape for name, one in self.parameters.items()}
        for name, one in self.parameters.items():
            moments, updates = [f"{kind}.{name}" for kind in _MOMENTS], f"{_UPDATES}.{name}"
            if found.keys().isdisjoint(moments):
                continue
            shapes |= dict.fromkeys(moments, one.shape)
            if updates in found:
                shapes[updates] = torch.Size()
        moves = self.pace.optimiser == "adamw" and len(losses) > 0
        if found != shapes or (len(shapes) > len(self.parameters)) != moves:
            raise _foreign(path)
        fewer = [one for key, one in tensors.items() if key.startswith(f"{_UPDATES}.")]
        if not all(float(one) in range(1, len(losses)) for one in fewer):
            raise _foreign(path)

    def _converted(self, path: Path, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """In the types that the training goes on with, where a large number may become infinity."""
        with decoding(path, STATE):
            found = {"losses": tensors["losses"].to(torch.float64)}
            for name, value in self.parameters.items():
                keys = (f"{kind}.{name}" for kind in ("parameter", *_MOMENTS))
                found |= {key: tensors[key].to(value) for key in keys if key in tensors}
                updates = f"{_UPDATES}.{name}"
                found |= {updates: tensors[updates]} if updates in tensors else {}
            return found

    def _require_moments(self, path: Path, tensors: Mapping[str, Tensor]) -> None:
        """CraftError for moments that no training leaves: with them the next step is not finite."""
        for name in self.parameters:
            mean, square = (tensors.get(f"{kind}.{name}") for kind in _MOMENTS)
            if mean is None or square is None:
                continue
            eps = self.optimiser.defaults["eps"]  # nothing in half precision
            step = mean.float() / (square.float().sqrt() + eps)  # NaN of negative ones
            if not bool(step.isfinite().all()):
                reason = f"no training leaves such averages of gradients as it has of {name}"
                raise STATE.damaged(path, reason)

    def settings(self) -> dict[str, str]:
        """The pace's, all but its steps, and the recipe's: a training resumes with the same."""
        pace = {name: str(value) for name, value in asdict(self.pace).items() if name != "steps"}
        return {**pace, **self.recipe.settings()}


def _recipe(path: Path, metadata: Mapping[str, str]) -> dict[str, str]:
    """The settings that a state was saved with."""
    try:
        stored = shallow_json(metadata["recipe"])
        return {str(name): str(value) for name, value in stored.items()}
    except (KeyError, ValueError, AttributeError) as error:
        raise STATE.damaged(path, "its settings are not readable") from error


def _foreign(path: Path) -> CraftError:
    return STATE.damaged(path, "its tensors are not those of this training")


def _require_finite(path: Path, tensors: Mapping[str, Tensor]) -> None:
    broken = [name for name, one in tensors.items() if not bool(torch.isfinite(one).all())]
    if broken:
        raise CraftError(
            f"{path.name}: {listed(broken, 2)} holds NaN or infinity",
            "A training goes on from finite numbers",
            "Start afresh with a lower learning rate, or resume the state kept as .previous",
        )


def _thinned(losses: list[float]) -> list[float]:
    """At most CURVE_POINTS means of equal stretches of the curve."""
    count = min(CURVE_POINTS, len(losses))
    edges = [round(i * len(losses) / max(1, count)) for i in range(count + 1)]
    return [sum(loss / (b - a) for loss in losses[a:b]) for a, b in pairwise(edges)]


def state_steps(path: Path) -> int:
    """The steps that a state has done, from the file's header alone. CraftError if it is none."""
    state_metadata(path)
    try:
        (steps,) = read_shapes(path)["losses"]
    except (OSError, BadHeader, KeyError, ValueError) as error:
        raise STATE.damaged(path, "it has no losses") from error
    return steps


def is_finished(path: Path) -> bool:
    """Whether a state has all steps that its training was to have; False where it does not say."""
    try:
        return state_steps(path) >= int(state_metadata(path)[STEPS_ASKED])
    except (CraftError, KeyError, ValueError):
        return False


def state_metadata(path: Path) -> Mapping[str, str]:
    """The metadata that a state was saved with. CraftError if the file is none."""
    return read_metadata(path, STATE)
