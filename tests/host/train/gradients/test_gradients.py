"""The gradient of a training, in every family: the same with checkpointing and without, and that of
finite differences. What cannot be trained is refused."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import comfy.model_management
import pytest
import torch
from craft_lora_pack.comfy_adapter.train.denoiser import open_denoiser
from craft_lora_pack.comfy_adapter.train.train import ModelParts
from craft_lora_pack.craft_core.errors import CraftError
from craft_lora_pack.craft_core.families import FAMILIES, UNTRAINED, runs_early
from craft_lora_pack.craft_core.training.recipes.lora import branch_edit
from craft_lora_pack.craft_core.types import Factors
from tiny_families import TINY
from torch import Tensor

FIRST = [family.classes[0] for family in FAMILIES.values() if family.classes[0] in TINY]
NESTED = {kind for kind in TINY if isinstance(TINY[kind].shape[0], tuple)}
"""Their latents are several tensors, and no picture is one of them."""
JUMPS = {"Hunyuan3Dv2_1"}
"""Its tokens change from one expert to another within the smallest step that float32 shows."""
DEVICE = comfy.model_management.get_torch_device()
LAW = 1e-5  # the two compute the same operations: they are equal where these are deterministic
STEP = 1e-2


def swept(kinds):
    """The class that stands for its family in CI, its other classes with --all."""
    rest = [kind for kind in TINY if kind in kinds and kind not in FIRST]
    return [
        *(kind for kind in FIRST if kind in kinds),
        *(pytest.param(kind, marks=pytest.mark.sweep) for kind in rest),
    ]


@dataclass(frozen=True)
class Found:
    """loss: its value. gradients: of each layer's (down, up), None where none arrives. numeric: how
    the loss grows along the whole gradient, for one unit of length, by finite differences."""

    loss: float
    gradients: dict[str, tuple[Tensor, Tensor] | None]
    numeric: float = 0.0

    @property
    def whole(self) -> Tensor:
        return torch.cat([one.flatten() for pair in self.gradients.values() for one in pair or ()])


def gradients_of(kind: str, checkpointing: bool) -> Found:
    tiny = TINY[kind]
    conditions = [tiny.conditioning(1), tiny.conditioning(2)]
    generator = torch.Generator().manual_seed(3)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(DEVICE)

    with open_denoiser(tiny.make(kind), None, "fp32", checkpointing) as denoiser:
        layers = {path: one for path, one in denoiser.layers.items() if not runs_early(path)}
        levels = len(denoiser.sigmas)
        sigma = denoiser.sigmas[[int(0.4 * levels), int(0.8 * levels)]].to(DEVICE)
        latent, noise = drawn(2, *tiny.shape), drawn(2, *tiny.shape)
        x, weight = denoiser.noised(latent, noise, sigma), denoiser.loss_weight(sigma)
        factors = {
            path: Factors(drawn(1, *n) / math.prod(n) ** 0.5, 0.05 * drawn(out, 1))
            for path, (out, *n) in layers.items()
        }
        edits = {path: branch_edit(one) for path, one in factors.items()}

        def loss() -> Tensor:
            denoised = denoiser.denoise(x.clone(), sigma, conditions)
            return (weight * (denoised - latent).square().flatten(1).mean(1)).mean()

        for one in factors.values():
            one.down.requires_grad_(True)
            one.up.requires_grad_(True)
        with denoiser.edited(edits):
            value = loss()
            value.backward()
        found = Found(
            value.item(),
            {
                path: None if one.up.grad is None else (one.down.grad, one.up.grad)
                for path, one in factors.items()
            },
        )
        ends, length = [], found.whole.norm()
        with torch.no_grad(), denoiser.edited(edits):
            for way in (STEP, -2 * STEP):
                for path, pair in found.gradients.items():
                    if pair is not None:
                        factors[path].down.add_(pair[0], alpha=float(way / length))
                        factors[path].up.add_(pair[1], alpha=float(way / length))
                ends.append(loss().double().item())
    return replace(found, numeric=(ends[0] - ends[1]) / (2 * STEP))


@pytest.mark.parametrize("kind", swept(set(TINY) - NESTED))
def test_checkpointing_changes_no_gradient_which_is_that_of_finite_differences(kind):
    kept, again = gradients_of(kind, False), gradients_of(kind, True)
    assert again.loss == pytest.approx(kept.loss, rel=1e-6)
    reached = [path for path, pair in kept.gradients.items() if pair is not None]
    assert reached == [path for path, pair in again.gradients.items() if pair is not None]
    assert len(reached) > 0.5 * len(kept.gradients)
    assert (again.whole - kept.whole).norm() <= LAW * kept.whole.norm()
    for path in reached:
        for one, other in zip(kept.gradients[path], again.gradients[path], strict=True):
            assert (other - one).norm() <= LAW * one.norm(), path
    if kind not in JUMPS:
        assert kept.numeric == pytest.approx(float(kept.whole.norm()), rel=0.01)


@pytest.mark.parametrize("kind", swept(TINY))
def test_a_class_that_pictures_with_captions_teach_nothing_is_refused_at_once(kind):
    assert set(UNTRAINED) >= NESTED
    model = TINY[kind].make(kind)
    if kind not in UNTRAINED:
        assert ModelParts(model, None, None).model is model
        return
    with pytest.raises(CraftError, match=f"is a {kind}, which no picture"):
        ModelParts(model, None, None)
