"""The input for the sigmas of a whole run, where several samplers make one picture."""

from __future__ import annotations

from comfy_api.latest import io
from torch import Tensor

from ...craft_core.time import whole_sigmas


def whole_sigmas_input() -> io.Input:
    return io.Sigmas.Input(
        "whole_sigmas", optional=True,
        tooltip="For a picture that several samplers make in a row: the sigmas of the whole run, "
        "before they are split (BasicScheduler with the samplers' steps and scheduler). Each "
        "sampler then goes on where the one before ended. None: time begins anew in each.",
    )  # fmt: skip


def given_sigmas(sigmas: Tensor | None) -> tuple[float, ...] | None:
    """What is linked there, checked; None for nothing."""
    return None if sigmas is None else whole_sigmas(sigmas.tolist())
