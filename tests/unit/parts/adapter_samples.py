"""Raw tensors of every adapter kind as files have them, and the matrix they stand for.

A further kind has its entry in SAMPLES, and is then under the contract tests of the core
(unit/lora/test_adapter_kinds.py) and of the host (host/model/test_adapter_kinds.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from raw_lora import noise
from torch import Tensor

Shape = tuple[int, ...]
ALPHA = 3.0


@dataclass(frozen=True)
class Sample:
    """tensors: by the endings of their keys. delta: dW of the whole weight, by the textbook.
    change: (weight, gate) -> dW, of a kind whose dW depends on the weight it meets."""

    tensors: dict[str, Tensor]
    delta: Tensor
    change: Callable[[Tensor, float], Tensor] | None = None

    def on(self, weight: Tensor, gate: float = 1.0) -> Tensor:
        """dW on a layer of that weight."""
        return self.delta if self.change is None else self.change(weight, gate)

    def named(self, stem: str) -> dict[str, Tensor]:
        return {f"{stem}.{ending}": tensor for ending, tensor in self.tensors.items()}

    def sized(self, size: float) -> Sample:
        """With dW about `size` times as large as a trained weight of its shape; one that depends
        on the weight is so already."""
        if self.change is not None:
            return self
        by = size * self.delta.shape[0] ** 0.5 / self.delta.norm().item()
        first = next(iter(self.tensors))
        return Sample(self.tensors | {first: by * self.tensors[first]}, by * self.delta)


class Make(Protocol):
    def __call__(self, shape: Shape, seed: int, rank: int = 2) -> Sample:
        """One form of a kind on a layer of that shape; a kind without a rank takes no notice."""
        ...


def _plain(shape: Shape, seed: int, rank: int = 2) -> Sample:
    ones = (1,) * (len(shape) - 2)
    up, down = noise(shape[0], rank, seed=seed), noise(rank, *shape[1:], seed=seed + 1)
    tensors = {"lora_up.weight": up.reshape(*up.shape, *ones), "lora_down.weight": down}
    delta = ALPHA / rank * (up @ down.flatten(1)).reshape(shape)
    return Sample({**tensors, "alpha": torch.tensor(ALPHA)}, delta)


def _locon_with_mid(shape: Shape, seed: int, rank: int = 2) -> Sample:
    ones = (1,) * (len(shape) - 2)
    up, down = noise(shape[0], rank, seed=seed), noise(rank, shape[1], seed=seed + 1)
    mid = noise(rank, rank, *shape[2:], seed=seed + 2)
    tensors = {"lora_up.weight": up.reshape(*up.shape, *ones),
               "lora_down.weight": down.reshape(*down.shape, *ones),
               "lora_mid.weight": mid}  # fmt: skip
    return Sample(tensors, torch.einsum("om,mr...,rn->on...", up, mid, down))


def _loha(shape: Shape, seed: int, rank: int = 2) -> Sample:
    size, tensors, sides = math.prod(shape[1:]), {}, []
    for i in (1, 2):
        a, b = noise(shape[0], rank, seed=seed + i), noise(rank, size, seed=seed + i + 2)
        tensors |= {f"hada_w{i}_a": a, f"hada_w{i}_b": b}
        sides.append(a @ b)
    delta = ALPHA / rank * (sides[0] * sides[1]).reshape(shape)
    return Sample({**tensors, "alpha": torch.tensor(ALPHA)}, delta)


def _loha_with_cores(shape: Shape, seed: int, rank: int = 2) -> Sample:
    tensors, sides = {}, []
    for i in (1, 2):
        a, b = noise(rank, shape[0], seed=seed + i), noise(rank, shape[1], seed=seed + i + 2)
        core = noise(rank, rank, *shape[2:], seed=seed + i + 4)
        tensors |= {f"hada_w{i}_a": a, f"hada_w{i}_b": b, f"hada_t{i}": core}
        sides.append(torch.einsum("ij...,jn,io->on...", core, b, a))
    return Sample(tensors, sides[0] * sides[1])


def _full(make: Make) -> Make:
    """Of a LoHa: of so large a rank that its product is full."""

    def made(shape: Shape, seed: int, rank: int = 2) -> Sample:
        return make(shape, seed, rank + 3)

    return made


def _divisor(size: int, most: int) -> int:
    return max(i for i in range(1, most + 1) if size % i == 0)


def _lokr(left: str, right: str, most: tuple[int, int], more: int = 1) -> Make:
    """left, right: "whole" or "pair", right also "core"; most: the largest size of w1; more: by
    how much the rank of its pair is above that of w2's."""

    def made(shape: Shape, seed: int, rank: int = 2) -> Sample:
        a, b = _divisor(shape[0], most[0]), _divisor(shape[1], most[1])
        c, d, kernel = shape[0] // a, shape[1] // b, shape[2:]
        scale, tensors, own = 1.0, {"alpha": torch.tensor(ALPHA)}, rank + more
        if left == "whole":
            w1 = noise(a, b, seed=seed)
            tensors = {"lokr_w1": w1} | tensors
        else:
            pair = noise(a, own, seed=seed), noise(own, b, seed=seed + 1)
            tensors = dict(zip(("lokr_w1_a", "lokr_w1_b"), pair, strict=True)) | tensors
            w1, scale = pair[0] @ pair[1], ALPHA / own
        if right == "whole":
            w2 = noise(c, d, *kernel, seed=seed + 2)
            tensors["lokr_w2"] = w2
        elif right == "pair":  # a convolution's kernel is flattened, as LyCORIS writes it
            pair = noise(c, rank, seed=seed + 2), noise(rank, d * math.prod(kernel), seed=seed + 3)
            tensors |= dict(zip(("lokr_w2_a", "lokr_w2_b"), pair, strict=True))
            w2, scale = (pair[0] @ pair[1]).reshape(c, d, *kernel), ALPHA / rank
        else:
            core = noise(rank, rank, *kernel, seed=seed + 2)
            pair = noise(rank, c, seed=seed + 3), noise(rank, d, seed=seed + 4)
            tensors |= dict(zip(("lokr_w2_a", "lokr_w2_b"), pair, strict=True), lokr_t2=core)
            w2, scale = torch.einsum("ij...,jd,ic->cd...", core, pair[1], pair[0]), ALPHA / rank
        delta = torch.zeros(shape)
        for i in range(a):
            for j in range(b):
                delta[i * c : (i + 1) * c, j * d : (j + 1) * d] = scale * w1[i, j] * w2
        return Sample(tensors, delta)

    return made


def _difference(shape: Shape, seed: int, rank: int = 2) -> Sample:
    delta = noise(*shape, seed=seed)
    return Sample({"diff": delta}, delta)


def _dora(inner: Make, ending: str, axis: int = 0, flat: bool = False) -> Make:
    """Over another kind: m about 1, which is the norm of a row of `weight_of`."""

    def made(shape: Shape, seed: int, rank: int = 2) -> Sample:
        within = inner(shape, seed, rank).sized(0.2)
        norm = (shape[0] / shape[1]) ** (axis / 2)
        magnitude = norm * (1.0 + 0.2 * noise(shape[axis], seed=seed + 11))
        stored = [1] * len(shape)
        stored[1 if axis else 0] = -1
        tensors = within.tensors | {ending: magnitude if flat else magnitude.reshape(stored)}

        def change(weight: Tensor, gate: float) -> Tensor:
            total = weight + within.delta
            measured = weight if ending == "dora_scale" and axis == 0 else total
            others = [i for i in range(len(shape)) if i != axis]
            norms = measured.square().sum(others, keepdim=True).sqrt()
            kept = [1] * len(shape)
            kept[axis] = -1
            return total * magnitude.reshape(kept) / norms - weight

        return Sample(tensors, change(weight_of(shape), 1.0), change)

    return made


def _turned(blocks: Tensor, bound: float) -> Tensor:
    skew = blocks - blocks.transpose(-1, -2)
    if 0 < bound < skew.norm():
        skew = skew * bound / skew.norm()
    one = torch.eye(skew.shape[-1])
    return (one + skew) @ torch.linalg.inv(one - skew)


def _oft(most: int, bound: float | None = None) -> Make:
    """Blocks of at most that size."""

    def made(shape: Shape, seed: int, rank: int = 2) -> Sample:
        size = _divisor(shape[0], most)
        blocks = 0.1 * noise(shape[0] // size, size, size, seed=seed)
        tensors = {"oft_blocks": blocks}
        if bound is not None:
            tensors["alpha"] = torch.tensor(bound)
        whole = torch.block_diag(*(one.T for one in _turned(blocks, bound or 0.0)))

        def change(weight: Tensor, gate: float) -> Tensor:
            turned = (whole @ weight.flatten(1)).reshape(weight.shape)
            return gate * (turned - weight)

        return Sample(tensors, change(weight_of(shape), 1.0), change)

    return made


def _boft(rescaled: bool) -> Make:
    """Butterflies of blocks of 4, as many stages as the outputs allow, two at most."""

    def made(shape: Shape, seed: int, rank: int = 2) -> Sample:
        out, size = shape[0], 4
        stages = 2 if out % 8 == 0 else 1
        blocks = 0.1 * noise(stages, out // size, size, size, seed=seed)
        tensors = {"oft_blocks": blocks, "alpha": torch.tensor(0.0)}
        by = torch.ones(out)
        if rescaled:
            by = 1.0 + 0.1 * noise(out, seed=seed + 5)
            tensors["rescale"] = by.reshape(out, *(1,) * (len(shape) - 1))

        def change(weight: Tensor, gate: float) -> Tensor:
            whole = torch.eye(out)
            for stage, turned in enumerate(_turned(blocks, 0.0)):
                stride = 2**stage * (size // 2)
                order = torch.arange(out).reshape(-1, 2, stride).transpose(1, 2).flatten()
                there = torch.eye(out)[order]
                mixed = torch.block_diag(*(gate * turned + (1 - gate) * torch.eye(size)))
                whole = there.T @ mixed @ there @ whole
            turned = (by[:, None] * whole @ weight.flatten(1)).reshape(weight.shape)
            return turned - weight

        return Sample(tensors, change(weight_of(shape), 1.0), change)

    return made


def _glora(old: bool) -> Make:
    def made(shape: Shape, seed: int, rank: int = 2) -> Sample:
        (out, n), kernel = shape[:2], shape[2:]
        ones = (1,) * len(kernel)
        left, right = 0.2 * noise(n, rank, seed=seed), noise(rank, n, seed=seed + 1) / n**0.5
        up, down = 0.1 * noise(out, rank, seed=seed + 2), noise(rank, *shape[1:], seed=seed + 3)
        down /= math.prod(shape[1:]) ** 0.5
        names = ("a2", "a1", "b2", "b1") if old else ("a1", "a2", "b1", "b2")
        stored = (left.reshape(n, rank, *ones), right.reshape(rank, n, *ones),
                  up.reshape(out, rank, *ones), down)  # fmt: skip
        tensors = {f"{name}.weight": t for name, t in zip(names, stored, strict=True)}

        def change(weight: Tensor, gate: float) -> Tensor:
            mixed = torch.einsum("on...,nm->om...", weight, left @ right)
            return ALPHA / rank * (mixed + (up @ down.flatten(1)).reshape(weight.shape))

        delta = change(weight_of(shape), 1.0)
        return Sample({**tensors, "alpha": torch.tensor(ALPHA)}, delta, change)

    return made


def _ia3(on_input: bool) -> Make:
    """As LyCORIS has it: of a linear layer (channels,), of a convolution (1, channels, 1, ..)."""

    def made(shape: Shape, seed: int, rank: int = 2) -> Sample:
        axis = 1 if on_input else 0
        factor = 0.2 * noise(shape[axis], seed=seed)
        stored = factor if len(shape) == 2 else factor.reshape(1, -1, *(1,) * (len(shape) - 2))
        along = factor.reshape([-1 if i == axis else 1 for i in range(len(shape))])

        def change(weight: Tensor, gate: float) -> Tensor:
            return along * weight

        tensors = {"weight": stored, "on_input": torch.tensor(int(on_input))}
        return Sample(tensors, change(weight_of(shape), 1.0), change)

    return made


def weight_of(shape: Shape) -> Tensor:
    """A layer's weight of a trained size: rows of norm 1."""
    return noise(*shape, seed=101) / math.prod(shape[1:]) ** 0.5


SAMPLES: dict[str, dict[str, Make]] = {
    "LoRA": {"plain": _plain, "mid": _locon_with_mid},
    "LoHa": {
        "plain": _loha,
        "cores": _loha_with_cores,
        "full rank": _full(_loha),
        "full rank, cores": _full(_loha_with_cores),
    },
    "LoKr": {
        "whole": _lokr("whole", "whole", (4, 4)),
        "wide w1": _lokr("whole", "whole", (2, 8)),
        "tall w1": _lokr("whole", "whole", (8, 2)),
        "w2 in two": _lokr("whole", "pair", (4, 4)),
        "w2 in two, tall w1": _lokr("whole", "pair", (8, 2)),
        "both in two": _lokr("pair", "pair", (4, 8)),
        "w1 in two": _lokr("pair", "whole", (8, 4)),
        "core": _lokr("whole", "core", (4, 4)),
        "thin w1": _lokr("pair", "pair", (8, 8), more=-1),
        "core of a large block": _lokr("pair", "core", (2, 1)),
    },
    "weight difference": {"whole": _difference},
    "DoRA": {
        "over LoRA": _dora(_plain, "dora_scale"),
        "inputs": _dora(_plain, "dora_scale", axis=1),
        "over mid": _dora(_locon_with_mid, "dora_scale"),
        "over LoHa": _dora(_loha, "dora_scale"),
        "over LoHa of full rank": _dora(_full(_loha), "dora_scale"),
        "over LoHa with cores": _dora(_loha_with_cores, "dora_scale"),
        "over LoKr": _dora(_lokr("whole", "pair", (4, 4)), "dora_scale"),
        "inputs over LoKr": _dora(_lokr("whole", "whole", (4, 4)), "dora_scale", axis=1),
        "magnitude": _dora(_plain, "lora_magnitude_vector", flat=True),
    },
    "GLoRA": {"new": _glora(False), "old": _glora(True)},
    "OFT": {
        "blocks": _oft(4),
        "large blocks": _oft(16),
        "bounded": _oft(4, bound=0.1),
        "butterfly": _boft(False),
        "butterfly rescaled": _boft(True),
    },
    "IA3": {"outputs": _ia3(False), "inputs": _ia3(True)},
}
_NEEDS_A_KERNEL = {
    "mid", "cores", "full rank, cores", "core", "core of a large block", "over mid",
    "over LoHa with cores",
}  # fmt: skip
# ComfyUI 0.30.0 logs an error for a LoKr's Tucker core, and goes on; it reads no PEFT magnitude.
HOST_DROPS = ("core", "core of a large block", "magnitude")
HOST_KINDS = tuple(kind for kind in SAMPLES if kind != "IA3")  # it has no IA3


def variants(kind: str, shape: Shape) -> list[str]:
    """The forms of a kind that a layer of this shape can have."""
    kernel = math.prod(shape[2:])
    return [
        name
        for name in SAMPLES[kind]
        if (len(shape) > 2 or name not in _NEEDS_A_KERNEL) and not (kernel > 1 and name == "old")
    ]


def whole_file(
    kind: str,
    places: dict[str, Shape],
    seed: int,
    size: float = 0.2,
    without: Sequence[str] = (),
    on: Callable[[str, Sample], Tensor] = lambda stem, made: made.delta,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """(state dict, {stem: dW}) of a file with all forms of a kind in turn. places: by stem. on:
    (stem, sample) -> its dW there."""
    state, deltas = {}, {}
    for number, (stem, shape) in enumerate(places.items()):
        names = [name for name in variants(kind, shape) if name not in without]
        made = SAMPLES[kind][names[number % len(names)]](shape, seed + 7 * number).sized(size)
        state |= made.named(stem)
        deltas[stem] = on(stem, made)
    return state, deltas
