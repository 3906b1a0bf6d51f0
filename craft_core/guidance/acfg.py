"""Asymmetric guidance: only conditional rows see the LoRAs, unconditional rows see the backbone.

CRAFT-LoRA (2026), arXiv:2602.18936, Eqs. 9-10 and 17-18: W_t^cond = W* + a_c(t) dW_c on I_c +
a_s(t) dW_s on I_s, W^uncond = W*. The two predictions are combined as always (cfg.py). Symmetric,
with the LoRAs under both rows, is the ablation "standard CFG" of App. C.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Row = Literal["cond", "uncond"]


def row_gates(gates: Tensor, role: Row, asymmetric: bool) -> Tensor:
    """The gates of a conditional or an unconditional row.

    gates: (views, layers, branches), what the conditional rows get now. A conditional row gets
    them unchanged (the same tensor), and an unconditional one too where guidance is symmetric,
    each view under its own. Where it is asymmetric, an unconditional row gets
    (1, layers, branches) zeros: the backbone alone, which needs no second view.
    """
    if role == "cond" or not asymmetric:
        return gates
    return torch.zeros_like(gates[:1])
