"""A training without randomness."""

from __future__ import annotations

import torch


class Pulled:
    """A recipe whose one parameter `a`, ones of any shape, is pulled to 0."""

    def __init__(self, *shape: int) -> None:
        self.value = torch.ones(shape, requires_grad=True)

    def parameters(self):
        return {"a": self.value}

    def backward(self, draw, share):
        loss = self.value.square().sum()
        (share * loss).backward()
        return {"loss": float(loss.detach())}

    def settings(self):
        return {}

    def write(self, path, metadata): ...
