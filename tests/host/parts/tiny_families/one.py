"""What a tiny model of a class is made from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import comfy.nested_tensor
import comfy.supported_models
import tiny
import torch

Extra = Callable[[torch.Generator], dict]


@dataclass(frozen=True)
class Tiny:
    """A few channels of one of the host's own classes, with seeded random weights.

    config: the settings of the class. shape: of one latent; several for a class whose latents are
    nested. context, tokens: of its text. extra: what its conditioning has besides.
    finish: replaces what the class has in one size only. unset: buffers that it leaves unset.
    state: keys that the class reads off a checkpoint. built: makes it, where the class cannot.
    """

    config: dict
    shape: tuple[int, ...] | tuple[tuple[int, ...], ...]
    context: int = tiny.CONTEXT
    tokens: int = 7
    extra: Extra | None = None
    finish: Callable[[Any], None] | None = None
    unset: tuple[str, ...] = ()
    state: Callable[[], dict] | None = None
    built: Callable[[str], Any] | None = None

    def make(self, kind: str) -> Any:
        """MODEL of the host's class of that name, float32."""
        if self.built is not None:
            return self.built(kind)
        made = getattr(comfy.supported_models, kind)
        state = self.state() if self.state else {}
        return tiny.dit(made, dict(self.config), 0, self._finish, state)

    def _finish(self, model: Any) -> None:
        if self.finish is not None:
            self.finish(model)
        generator = torch.Generator().manual_seed(0)
        for name in self.unset:
            buffer = model.diffusion_model.get_buffer(name)
            buffer.data.copy_(torch.rand(buffer.shape, generator=generator))
        model.diffusion_model.eval()  # as the host's own classes are made; not what replaces a part

    def conditioning(self, seed: int) -> list:
        made = tiny.conditioning(seed, self.tokens, self.context)
        if self.extra is not None:
            made[0][1].update(self.extra(torch.Generator().manual_seed(100 + seed)))
        return made

    def latent(self, batch: int = 1) -> dict:
        """Empty; the noise is seeded."""
        shapes = self.shape if isinstance(self.shape[0], tuple) else (self.shape,)
        parts = [torch.zeros(batch, *shape) for shape in shapes]
        whole = parts[0] if len(parts) == 1 else comfy.nested_tensor.NestedTensor(parts)
        return {"samples": whole}
