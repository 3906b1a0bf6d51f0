"""Models whose layers compute in kernels of their own, to which nothing can be added.

Nunchaku's SVDQuant models (Li et al. 2025, arXiv:2411.05007) fuse a layer's product, its own
low-rank part and its neighbours into one kernel; some are wholly one opaque module. Their LoRAs go
into that low-rank part, which only Nunchaku's own loaders do.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from ...craft_core.errors import CraftError

_PACKAGE = "nunchaku"


def refuse_fused_kernels(diffusion_model: nn.Module) -> None:
    """CraftError where a layer of the model is Nunchaku's."""
    for path, module in diffusion_model.named_modules():
        if _is_fused(module):
            raise CraftError(
                "This MODEL is quantised by Nunchaku (SVDQuant): "
                f"{path or 'it'} computes in a kernel of its own",
                "LoRAs are routed through layers that return their output before the next one "
                "starts, as in fp16, bf16, fp8, INT8, NVFP4 and GGUF models",
                "Load one of these with Load Diffusion Model or a GGUF loader for the Router, or "
                "load the LoRAs with Nunchaku's own LoRA loaders instead of the Router",
            )


def _is_fused(module: Any) -> bool:
    package = type(module).__module__.split(".")[0]
    return package == _PACKAGE or (hasattr(module, "qweight") and not hasattr(module, "weight"))
