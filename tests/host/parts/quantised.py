"""Small SDXL models whose layers are stored quantised, in every format that can be made on a CPU,
and what the exact float32 sum of their weights and LoRAs gives.

The exact model has the stored weights, dequantised, and float32 everywhere: what a LoRA adds to
the quantised model without any rounding of its own.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import oracle
import tiny
import torch
from comfy.quant_ops import QUANT_ALGOS, QuantizedTensor
from craft_lora_pack.comfy_adapter.engine.modules import model_layers
from two_loras import NEGATIVE, POSITIVE, loras, routed, two_loaders

WIDTHS = {"model_channels": 64}
GROUP = 64  # a layer whose inputs are no multiple stays as it is, for every format alike


@dataclass(frozen=True)
class Format:
    """How a layer's weight is stored. algorithm: of the host, by its key. settings: of the
    quantisation. written: what a file says of the layer beside it."""

    algorithm: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    written: Mapping[str, Any] = field(default_factory=dict)

    def layer(self, weight: torch.Tensor, prefix: str) -> dict[str, torch.Tensor]:
        """The entries of a linear layer in a checkpoint."""
        layout = QUANT_ALGOS[self.algorithm]["comfy_tensor_layout"]
        stored = QuantizedTensor.from_float(weight.float(), layout, **self.settings)
        says = json.dumps({"format": self.algorithm, **self.written}).encode()
        return {
            **stored.state_dict(f"{prefix}weight"),
            f"{prefix}comfy_quant": torch.tensor(list(says), dtype=torch.uint8),
        }


_CONVROT = {"convrot": True, "convrot_groupsize": GROUP}
_EVERY = {
    "fp8 e4m3, scaled": Format("float8_e4m3fn", {"scale": "recalculate"}),
    "fp8 e5m2, scaled": Format("float8_e5m2", {"scale": "recalculate"}),
    "MXFP8": Format("mxfp8"),
    "NVFP4": Format("nvfp4"),
    "INT8": Format("int8_tensorwise"),
    "INT8, a scale a row": Format("int8_tensorwise", {"per_channel": True}),
    "INT8 ConvRot": Format("int8_tensorwise", {"per_channel": True, **_CONVROT}, _CONVROT),
    "INT4 ConvRot": Format(
        "convrot_w4a4", {"convrot_groupsize": GROUP}, {"convrot_groupsize": GROUP}
    ),
}
QUANTISED = {name: one for name, one in _EVERY.items() if one.algorithm in QUANT_ALGOS}
CAST = {"float16": torch.float16, "bfloat16": torch.bfloat16, "fp8 e4m3": torch.float8_e4m3fn}
FORMATS = (*CAST, *QUANTISED)
ROUND_INPUTS = ("INT8", "INT8, a scale a row", "INT8 ConvRot", "INT4 ConvRot")
"""Formats in which the host's layers round their inputs too, with LoRAs or without."""


def quantised(name: str, seed: int = 0):
    """MODEL whose weights are stored in that format and computed with as the host does on a CPU."""
    if name in CAST:
        return tiny.sdxl(CAST[name], seed, **WIDTHS)
    plain = tiny.sdxl(seed=seed, **WIDTHS)
    network = plain.model.diffusion_model
    state = dict(network.state_dict())
    for path, module in network.named_modules():
        if isinstance(module, torch.nn.Linear) and module.in_features % GROUP == 0:
            weight = state.pop(f"{path}.weight")
            state |= QUANTISED[name].layer(weight, f"{path}.")
    model = tiny.sdxl(seed=seed, quantised=True, **WIDTHS)
    model.model.diffusion_model.load_state_dict(state)
    return model


def exact(model):
    """MODEL with the stored weights, dequantised, in float32."""
    made = tiny.sdxl(**WIDTHS)
    stored = dict(model.model.diffusion_model.named_parameters())
    for name, parameter in made.model.diffusion_model.named_parameters():
        weight = stored[name].data
        weight = weight.dequantize() if isinstance(weight, QuantizedTensor) else weight
        parameter.data = weight.float()
    return made


@dataclass(frozen=True)
class Errors:
    """Distances of samples to those of the exact sum. base: of the quantised model without LoRAs
    to its exact one. effect: what the LoRAs change."""

    base: float
    ours: float
    host: float
    effect: float


@torch.inference_mode()  # as the host runs every node
def errors(name: str, sample: Callable[[Any], torch.Tensor] | None = None) -> Errors:
    """Two LoRAs on a quantised model, by our engine and by the host's loader."""
    sample = sample or _sample
    model = quantised(name)
    true = exact(model)
    states = loras(model_layers(model))
    plain, truth = sample(true), sample(two_loaders(true, states))
    return Errors(
        oracle.distance(sample(model), plain),
        oracle.distance(sample(routed(model, states)), truth),
        oracle.distance(sample(two_loaders(model, states)), truth),
        oracle.distance(plain, truth),
    )


def _sample(model) -> torch.Tensor:
    return oracle.sample(oracle.guider(model, POSITIVE, NEGATIVE), tiny.latent(), steps=2)
