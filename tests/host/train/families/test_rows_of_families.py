"""The expert encoder's scales of a row act on that row alone, on a tiny model of every family."""

from __future__ import annotations

import pytest
import torch
from craft_lora_pack.comfy_adapter.train.denoiser import open_denoiser
from craft_lora_pack.craft_core.families import UNTRAINED
from craft_lora_pack.craft_core.training.recipes.expert_encoder import (
    rows_of_calls,
    scaled_branches,
)
from craft_lora_pack.craft_core.training.targets import trainable
from craft_lora_pack.craft_core.types import Factors
from tiny_families import TINY

NESTED = {kind for kind in TINY if isinstance(TINY[kind].shape[0], tuple)}  # no picture is one
KINDS = [kind for kind in TINY if kind not in NESTED and kind not in UNTRAINED]
ONE_BY_ONE = {  # where a call with two rows gave a layer one row, or mixed them
    "CosmosI2V", "CosmosT2V", "HiDream", "HunyuanImage21", "HunyuanVideo15_SR_Distilled",
    "PixArtAlpha", "PixArtSigma", "PixelDiTT2I",
}  # fmt: skip


def random_update(shape, generator):
    down = torch.randn(1, *shape[1:], generator=generator)
    down /= down[0].numel() ** 0.5
    return Factors(down, torch.randn(shape[0], 1, generator=generator) * 0.2)


@pytest.mark.parametrize("kind", KINDS)
def test_each_rows_scale_acts_on_that_row_alone(kind):
    tiny = TINY[kind]
    condition = tiny.conditioning(1)
    generator = torch.Generator().manual_seed(3)
    with open_denoiser(tiny.make(kind), None, "fp32", False) as denoiser, torch.no_grad():
        updates = {
            path: random_update(shape, generator)
            for path, shape in trainable(denoiser.layers).items()
        }
        levels = denoiser.sigmas
        sigma = levels[[int(len(levels) * 0.4), int(len(levels) * 0.8)]]
        latent, noise = torch.randn(2, 2, *tiny.shape, generator=generator)
        x = denoiser.noised(latent, noise, sigma)

        def denoised(rows, weights):
            edits = {path: scaled_branches([(one, weights[rows])]) for path, one in updates.items()}
            with denoiser.edited(edits):
                return denoiser.denoise(x[rows].clone(), sigma[rows], [condition] * len(rows))

        def in_calls(weights, calls):
            given = {}
            for rows in calls:
                given.update(zip(rows, denoised(rows, weights), strict=True))
            return torch.stack([given[row] for row in (0, 1)])

        weights = torch.tensor([1.0, 0.2])
        alone = in_calls(weights, [[0], [1]])
        moved = alone - in_calls(weights * 0, [[0], [1]])
        calls = rows_of_calls(denoiser, updates, [condition] * 2)
        together = in_calls(weights, calls)
    assert all(one.norm() > 0 for one in moved), "the updates act"
    assert (together - alone).norm() < 1e-3 * moved.norm()
    if kind in ONE_BY_ONE:
        assert calls == [[0], [1]]
