"""Which layers are trained: the linears of attention blocks, and the convolutions between them."""

from __future__ import annotations

import re

from ..families import runs_early
from ..types import LayerShapes

# A UNet's transformer blocks with the projections around them; the numbered blocks of a DiT. Not
# the embeddings of time, size and text, nor their projections inside the blocks of a UNet.
_ATTENTION = re.compile(
    r"(^|\.)(transformer_blocks|(double|single|joint)_blocks|blocks|layers)\.\d+\.|\.proj_(in|out)$"
)


def attention_linears(layers: LayerShapes) -> dict[str, tuple[int, ...]]:
    """The linears (and 1x1 projections) of the attention blocks, but for those that the host runs
    before it samples, where nothing would be learned."""
    return {
        path: shape
        for path, shape in layers.items()
        if _ATTENTION.search(path) and not runs_early(path) and all(size == 1 for size in shape[2:])
    }


def convolutions(layers: LayerShapes) -> dict[str, tuple[int, ...]]:
    """Convolutions of 3 x 3 and more, without the model's first and last.

    Those two alone read and write the latent's few channels; a last one limited to a lower rank
    would keep nothing of its few outputs.
    """
    found = {path: shape for path, shape in layers.items() if any(size > 1 for size in shape[2:])}
    ends = {*list(layers)[:1], *list(layers)[-1:], "input_blocks.0.0", "out.2"}
    return {path: shape for path, shape in found.items() if path not in ends}


def trainable(layers: LayerShapes) -> dict[str, tuple[int, ...]]:
    """Attention linears and convolutions, in the model's order."""
    chosen = attention_linears(layers).keys() | convolutions(layers).keys()
    return {path: shape for path, shape in layers.items() if path in chosen}
