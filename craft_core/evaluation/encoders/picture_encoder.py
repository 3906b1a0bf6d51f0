"""What scores need of a picture encoder."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class PictureEncoder(Protocol):
    """A network that makes features of pictures, and what a score must say about it.

    name: of the network, never another's. preprocessing: what is done to pictures before it.
    """

    @property
    def name(self) -> str: ...

    @property
    def preprocessing(self) -> str: ...

    def features(self, pictures: Tensor) -> Tensor:
        """Pictures (B, h, w, 3) in [0, 1] -> (B, width), each from its own picture alone."""
        ...
