"""Raw tensors of every adapter kind as files have them, and the matrix they stand for.

A further kind has its entry in SAMPLES, and is then under the contract tests of the core
(unit/lora/test_adapter_kinds.py) and of the host (host/test_adapter_kinds.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from raw_lora import noise
from torch import Tensor

Shape = tuple[int, ...]
ALPHA = 3.0


@dataclass(frozen=True)
class Sample:
    """tensors: by the endings of their keys. delta: dW of the whole weight, by the textbook."""

    tensors: dict[str, Tensor]
    delta: Tensor

    def named(self, stem: str) -> dict[str, Tensor]:
        return {f"{stem}.{ending}": tensor for ending, tensor in self.tensors.items()}

    def sized(self, size: float) -> Sample:
        """With dW about `size` times as large as a trained weight of its shape."""
        by = size * self.delta.shape[0] ** 0.5 / self.delta.norm().item()
        first = next(iter(self.tensors))
        return Sample(self.tensors | {first: by * self.tensors[first]}, by * self.delta)


def _plain(shape: Shape, seed: int) -> Sample:
    rank, ones = 2, (1,) * (len(shape) - 2)
    up, down = noise(shape[0], rank, seed=seed), noise(rank, *shape[1:], seed=seed + 1)
    tensors = {"lora_up.weight": up.reshape(*up.shape, *ones), "lora_down.weight": down}
    delta = ALPHA / rank * (up @ down.flatten(1)).reshape(shape)
    return Sample({**tensors, "alpha": torch.tensor(ALPHA)}, delta)


def _locon_with_mid(shape: Shape, seed: int) -> Sample:
    rank, ones = 2, (1,) * (len(shape) - 2)
    up, down = noise(shape[0], rank, seed=seed), noise(rank, shape[1], seed=seed + 1)
    mid = noise(rank, rank, *shape[2:], seed=seed + 2)
    tensors = {"lora_up.weight": up.reshape(*up.shape, *ones),
               "lora_down.weight": down.reshape(*down.shape, *ones),
               "lora_mid.weight": mid}  # fmt: skip
    return Sample(tensors, torch.einsum("om,mr...,rn->on...", up, mid, down))


def _loha(shape: Shape, seed: int) -> Sample:
    rank, size, tensors, sides = 2, math.prod(shape[1:]), {}, []
    for i in (1, 2):
        a, b = noise(shape[0], rank, seed=seed + i), noise(rank, size, seed=seed + i + 2)
        tensors |= {f"hada_w{i}_a": a, f"hada_w{i}_b": b}
        sides.append(a @ b)
    delta = ALPHA / rank * (sides[0] * sides[1]).reshape(shape)
    return Sample({**tensors, "alpha": torch.tensor(ALPHA)}, delta)


def _loha_with_cores(shape: Shape, seed: int) -> Sample:
    rank, tensors, sides = 2, {}, []
    for i in (1, 2):
        a, b = noise(rank, shape[0], seed=seed + i), noise(rank, shape[1], seed=seed + i + 2)
        core = noise(rank, rank, *shape[2:], seed=seed + i + 4)
        tensors |= {f"hada_w{i}_a": a, f"hada_w{i}_b": b, f"hada_t{i}": core}
        sides.append(torch.einsum("ij...,jn,io->on...", core, b, a))
    return Sample(tensors, sides[0] * sides[1])


SAMPLES: dict[str, dict[str, Callable[[Shape, int], Sample]]] = {
    "LoRA": {"plain": _plain, "mid": _locon_with_mid},
    "LoHa": {"plain": _loha, "cores": _loha_with_cores},
}
_NEEDS_A_KERNEL = {"mid", "cores"}
HOST_DROPS: tuple[str, ...] = ()  # forms that the host loads nothing of


def variants(kind: str, shape: Shape) -> list[str]:
    """The forms of a kind that a layer of this shape can have."""
    return [name for name in SAMPLES[kind] if len(shape) > 2 or name not in _NEEDS_A_KERNEL]


def whole_file(
    kind: str, places: dict[str, Shape], seed: int, size: float = 0.2, without: Sequence[str] = ()
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """(state dict, {stem: dW}) of a file with all forms of a kind in turn. places: by stem."""
    state, deltas = {}, {}
    for number, (stem, shape) in enumerate(places.items()):
        names = [name for name in variants(kind, shape) if name not in without]
        made = SAMPLES[kind][names[number % len(names)]](shape, seed + 7 * number).sized(size)
        state |= made.named(stem)
        deltas[stem] = made.delta
    return state, deltas
