"""Trainings on a base whose weights are stored quantised: the gradient is that of the dequantised
weights, with checkpointing and without, and every training runs."""

from __future__ import annotations

import comfy.model_management
import comfy.sd
import folder_paths
import pytest
import safetensors.torch
import small_world_models as small
import tiny
import torch
from comfy.quant_ops import QUANT_ALGOS, QuantizedTensor
from craft_lora_pack.comfy_adapter.train.denoiser import open_denoiser
from craft_lora_pack.comfy_adapter.train.train import ModelParts
from craft_lora_pack.craft_core.training.recipes.lora import branch_edit
from craft_lora_pack.craft_core.types import Factors
from oracle import LAW, distance
from quantised import CAST, QUANTISED, ROUND_INPUTS, exact, quantised
from safetensors.torch import load_file
from torch import Tensor
from trainings import TRAININGS, one_of_each

FP8 = "fp8 e4m3, scaled"
# An older host has fewer formats.
STORED = [name for name, one in QUANTISED.items() if one.algorithm in QUANT_ALGOS]
CARD = ("supports_fp8_compute", "supports_nvfp4_compute", "supports_mxfp8_compute")


def gradients_of(model, checkpointing: bool) -> tuple[float, Tensor]:
    """The loss of LoRAs on some layers, and its whole gradient."""
    generator = torch.Generator().manual_seed(1)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    with open_denoiser(model, None, "fp32", checkpointing) as denoiser:
        paths = [path for path in denoiser.layers if ".attn" in path or ".ff." in path]
        factors = {
            path: Factors(
                drawn(2, denoiser.layers[path][1]).mul(0.1).requires_grad_(),
                drawn(denoiser.layers[path][0], 2).mul(0.1).requires_grad_(),
            )
            for path in paths
        }
        edits = {path: branch_edit(one) for path, one in factors.items()}
        with denoiser.edited(edits):
            made = denoiser.denoise(
                drawn(1, 4, 16, 16), torch.tensor([3.0]), [tiny.conditioning(1)]
            )
            loss = made.square().mean()
            loss.backward()
        parts = [one.grad for pair in factors.values() for one in (pair.down, pair.up)]
        assert len(paths) > 5 and all(one is not None for one in parts)
        return loss.item(), torch.cat([one.flatten() for one in parts])


@pytest.mark.parametrize("name", [*CAST, *STORED])
def test_the_gradient_is_that_of_the_dequantised_weights(name):
    model = quantised(name)
    loss, gradient = gradients_of(model, False)
    again, recomputed = gradients_of(model, True)
    assert again == pytest.approx(loss, rel=1e-6) and distance(recomputed, gradient) <= LAW
    wanted, true = gradients_of(exact(model), False)
    if name not in ROUND_INPUTS:  # what rounds its inputs is no exact product, forwards
        assert loss == pytest.approx(wanted, rel=1e-5) and distance(gradient, true) <= LAW
    assert torch.cosine_similarity(gradient, true, dim=0) > 0.9


@pytest.mark.parametrize("computes", ["plain", "as on a card"])
@pytest.mark.parametrize("name", STORED)
def test_each_quantised_layer_sends_back_what_its_dequantised_weight_does(
    name, computes, monkeypatch
):
    """As on a card: where the host computes with the stored numbers themselves."""
    if computes != "plain":
        for asked in CARD:
            monkeypatch.setattr(comfy.model_management, asked, lambda *_, **__: True, raising=False)
    generator, count = torch.Generator().manual_seed(1), 0
    with open_denoiser(quantised(name), None, "fp32", False) as denoiser:
        network = denoiser._model.diffusion_model
        for path in denoiser.layers:
            layer = network.get_submodule(path)
            if not isinstance(layer.weight, QuantizedTensor):
                continue
            x = torch.randn(2, 3, layer.in_features, generator=generator).requires_grad_()
            back = torch.randn(2, 3, layer.out_features, generator=generator)
            layer(x).backward(back)
            assert distance(x.grad, back @ layer.weight.dequantize().float()) <= LAW, path
            count += 1
    assert count > 5


@pytest.fixture(scope="module")
def worlds(tmp_path_factory):
    """The small world from a file with quantised layers, and from one with what they stand for."""
    folder = tmp_path_factory.mktemp("quantised")
    small.load()  # makes the world's classes known
    state = load_file(folder_paths.get_full_path("checkpoints", small.CHECKPOINT))
    stored, meant = dict(state), dict(state)
    for key, value in state.items():
        path = key.removesuffix("weight")
        if "transformer_blocks" in key and key.endswith(".weight") and value.ndim == 2:
            del stored[key]
            entries = QUANTISED[FP8].layer(value, path)
            stored |= entries
            numbers = entries[key].float() * entries[f"{key}_scale"].float()
            meant[key] = numbers
    found = []
    for name, tensors in (("stored", stored), ("meant", meant)):
        path = str(folder / f"{name}.safetensors")
        safetensors.torch.save_file({k: v.contiguous() for k, v in tensors.items()}, path)
        with torch.inference_mode():
            found.append(ModelParts(*comfy.sd.load_checkpoint_guess_config(path)[:3]))
    return found


@pytest.mark.parametrize("key", TRAININGS)
def test_every_training_on_a_quantised_file_is_that_on_the_weights_it_stands_for(key, worlds):
    stored, meant = worlds
    layers = stored.model.model.diffusion_model.modules()
    assert any(isinstance(getattr(one, "weight", None), QuantizedTensor) for one in layers)
    ours = one_of_each(key, stored, f"quantised/{key}_stored")
    true = one_of_each(key, meant, f"quantised/{key}_meant")
    assert ours.losses == pytest.approx(true.losses, rel=1e-3)


@pytest.mark.parametrize("name", CAST)
def test_a_base_that_is_only_cast_is_left_alone(name):
    with open_denoiser(quantised(name), None, "fp32", False) as denoiser:
        layers = denoiser._model.diffusion_model.modules()
        assert not any("_forward" in vars(one) for one in layers)
