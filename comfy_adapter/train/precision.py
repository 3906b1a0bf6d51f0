"""What a training computes in: the device decides, unless the user does.

bf16 takes half the memory of fp32, and on a device with units for it less time. A device without
them emulates it, many times slower than fp32. fp16 is not on offer: the training loop does not
scale its loss, and in fp16 small gradients would round to zero.
"""

from __future__ import annotations

import platform
from dataclasses import dataclass

import comfy.model_management as management
import torch

AUTO = "auto"
PRECISIONS: dict[str, torch.dtype] = {"bf16": torch.bfloat16, "fp32": torch.float32}
CHOICES = (AUTO, *PRECISIONS)


@dataclass(frozen=True)
class Precision:
    """name: a key of PRECISIONS. why: for the report. warning: what the user should know before
    the training begins, or ""."""

    name: str
    why: str
    warning: str = ""

    @property
    def dtype(self) -> torch.dtype:
        return PRECISIONS[self.name]


def decide(setting: str, device: torch.device, begun: str = "") -> Precision:
    """What to compute in on this device.

    setting: one of CHOICES. begun: what a training that resumes was computed in before, "" where
    that is not known; `auto` keeps to it, except to a bf16 that this device would emulate.
    """
    if not hasattr(torch, device.type):  # DirectML
        why = f"torch has no mixed precision on {_name(device)}"
        unheard = f"Training in fp32, not in {setting} as set: {why}"
        return Precision("fp32", why, unheard if setting == "bf16" else "")
    lacking = _lacking(device)
    before = f"; it began in {begun}" if begun not in ("", setting) else ""
    if setting == "bf16" and lacking:
        warning = f"Training in bf16, as set, but {lacking}. To change that, set precision to auto"
        return Precision("bf16", f"as set, but {lacking}{before}", warning)
    if setting != AUTO:
        return Precision(setting, f"as set{before}")
    if begun and not (begun == "bf16" and lacking):
        return Precision(begun, "as the training that it resumes")
    if lacking:
        return Precision("fp32", lacking + before)
    return Precision("bf16", f"{_name(device)} has units for bf16")


def _lacking(device: torch.device) -> str:
    """Why bf16 is not the choice for this device, "" where it is.

    The host knows that of every device but the CPU, where it never computes in bf16 itself.
    """
    if management.FORCE_FP32:
        return "ComfyUI was started with --force-fp32"
    if device.type != "cpu":
        fast = management.should_use_bf16(device)
        return "" if fast else f"ComfyUI finds no fast bf16 on {_name(device)}"
    if not (torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()):
        return "this CPU has no units for bf16 and emulates it, about ten times slower than fp32"
    if _is_without_avx512_bf16():
        return "this CPU has no units for bf16 and emulates it, slower than fp32"
    return ""


def _is_without_avx512_bf16() -> bool:
    """Of the x86 CPUs with AVX-512, to all of which oneDNN grants bf16, whether it is an older one.

    A torch that cannot tell leaves it at oneDNN's word.
    """
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return False
    known = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return known is not None and not known()


def _name(device: torch.device) -> str:
    return "this CPU" if device.type == "cpu" else str(device)
