"""Where a training runs and in which precision: read off the machine."""

import torch


def choose(name: str | None = None) -> torch.device:
    """The named device, else the first CUDA card, else the CPU."""
    return torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))


def precision(device: torch.device) -> torch.dtype:
    """bfloat16 where the machine has units for it; elsewhere it is slower than float32."""
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        fast = device.type == "cpu" and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return torch.bfloat16 if fast else torch.float32


def autocast(device: torch.device, dtype: torch.dtype) -> torch.autocast:
    """Autocasting to a precision of `precision`; float32 leaves everything as it is."""
    return torch.autocast(device.type, torch.bfloat16, enabled=dtype != torch.float32)
