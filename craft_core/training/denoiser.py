"""What a recipe needs of a diffusion model, and nothing about whose model it is.

A recipe never sees the network. It asks a Denoiser for the layers, for the noise levels the model
was trained at, for `denoised` at one of them, and to run with some layers' outputs edited.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from ..types import LayerPass, LayerUpdate

# What the model is conditioned on for one picture. Only the Denoiser that made it can read it.
Condition = Any


@dataclass(frozen=True)
class Example:
    """One captioned picture. latent: (C, *spatial) on the model's own scale, float32 on the CPU.

    name: for messages. caption: what the condition was made of. mirrored: the latent of the picture
    mirrored, which is not the latent mirrored: a latent's channels may hold patches of the picture,
    and no VAE treats both sides quite alike. None where no training mirrors it.
    """

    latent: Tensor
    condition: Condition
    name: str = ""
    caption: str = ""
    mirrored: Tensor | None = None


@dataclass(frozen=True)
class LayerCall:
    """One call of one linear or convolution layer, or of a normalisation, as an Edit sees it.

    x: the layer's input. output: what it returned, (B, ..., out) or (B, out, *spatial).
    product: (inputs, weight) -> the layer's own map with another weight (m, n) or
    (m, n, *kernel), without bias: the same strides and padding, so a stored weight and an edit
    meet the same pixels. is_convolution: whether the outputs are on axis 1, as a convolution's are.
    in_groups: whether it is a convolution in groups, each of whose outputs sees some inputs only:
    there m is the layer's own.
    """

    x: Tensor
    output: Tensor
    bias: Tensor | None
    weight: Callable[[], Tensor]
    product: Callable[[Tensor, Tensor], Tensor]
    is_convolution: bool
    in_groups: bool = False

    def apply(self, weight: Tensor) -> Tensor:
        """The layer's own map of its input with another weight."""
        return self.product(self.x, weight)

    @property
    def passed(self) -> LayerPass:
        """The call as an update sees it."""
        return LayerPass(
            self.x, self.output, self.product, 1 if self.is_convolution else -1, self.bias,
            again=lambda inputs: self.product(inputs, self.weight()),
        )  # fmt: skip

    def mix(self, hidden: Tensor, up: Tensor) -> Tensor:
        """`up` (out, rank) over the channels of hidden: (B, ..., rank) or (B, rank, *spatial)."""
        up = up.to(hidden.dtype)
        if self.is_convolution:
            return (up @ hidden.flatten(2)).unflatten(2, hidden.shape[2:])
        return hidden @ up.T

    def low_rank(self, down: Tensor, up: Tensor) -> Tensor:
        """up (down x). down: (rank, n) or (rank, n, *kernel). up: (out, rank)."""
        if self.in_groups:  # rows of `up` in different groups see different inputs
            return self.apply((up @ down.flatten(1)).unflatten(1, down.shape[1:]))
        return self.mix(self.apply(down), up)

    def added(self, update: LayerUpdate) -> Tensor:
        """What an update adds to the outputs that it covers, at a scale of 1."""
        if not self.in_groups:
            return update.added(self.passed.narrowed(update.rows))
        made = update.on(self.weight().float()) if update.on_weight else update
        outputs = self.output.shape[1]
        whole = replace(made, scale=1.0).whole(outputs)
        return self.apply(whole).narrow(1, *(update.rows or (0, outputs)))


Edit = Callable[[LayerCall], Tensor]  # -> what the layer returns instead of call.output


class Denoiser(Protocol):
    """A frozen diffusion model that gradients can pass through.

    layers: module path -> weight shape, in forward depth order. sigmas: (N,) the noise levels of
    its training, ascending. device: where x and sigma go.
    """

    layers: Mapping[str, tuple[int, ...]]
    sigmas: Tensor
    device: torch.device

    def noised(self, latent: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
        """x of (B, C, *spatial) latents at (B,) noise levels, as the model defines it."""
        ...

    def denoise(self, x: Tensor, sigma: Tensor, conditions: Sequence[Condition]) -> Tensor:
        """`denoised` (B, C, *spatial), float32, of x at sigma (B,); row i sees conditions[i]."""
        ...

    def needs_single_rows(self, layers: Iterable[str]) -> bool:
        """Whether, where one of these layers is edited and the edit tells rows apart, each row has
        to be denoised in a call of its own: in a call of several the layer would not see all of
        them, one after the other."""
        ...

    def loss_weight(self, sigma: Tensor) -> Tensor:
        """(B,): what makes the squared error of `denoised` that of the network's own output."""
        ...

    def edited(self, edits: Mapping[str, Edit]) -> AbstractContextManager[None]:
        """While the block runs, layer `path` returns edits[path](call)."""
        ...

    def decode(self, latent: Tensor) -> Tensor:
        """(B, C, *spatial) latents -> (B, 3, H, W) in [0, 1], with gradients.

        CraftError if the model was given without a VAE.
        """
        ...
