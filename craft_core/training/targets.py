"""Which layers are trained: the linears of a model's blocks, and the convolutions among them."""

from __future__ import annotations

import re

from ..families import in_block, runs_early
from ..types import LayerShapes

# What blocks have besides: projections of the embeddings of time and size, a resnet's shortcut, the
# layers that mix the frames of a video.
_BESIDE = re.compile(
    r"(^|\.)(emb_layers|\w*embed\w*|mapper(_sca|_crp)?|skip_connection|time_stack)(\.|$)"
)
_FIRST = "input_blocks.0.0"  # of a UNet, whose other convolutions outside its levels have no block


def attention_linears(layers: LayerShapes) -> dict[str, tuple[int, ...]]:
    """The linears (and 1x1 projections) of attention and feed-forward in the model's blocks, but
    for those that the host runs before it samples, where nothing would be learned."""
    return {
        path: shape
        for path, shape in _in_blocks(layers).items()
        if all(size == 1 for size in shape[2:]) and not _BESIDE.search(path)
    }


def convolutions(layers: LayerShapes) -> dict[str, tuple[int, ...]]:
    """Convolutions of 3 x 3 and more in the model's blocks.

    Not the first and last, which alone read and write the latent's few channels: a last one limited
    to a lower rank would keep nothing of its few outputs. Not those of each channel by itself,
    which mix nothing that could have a lower rank.
    """
    return {
        path: shape
        for path, shape in _in_blocks(layers).items()
        if any(size > 1 for size in shape[2:]) and shape[1] > 1
    }


def trainable(layers: LayerShapes) -> dict[str, tuple[int, ...]]:
    """Attention linears and convolutions, in the model's order."""
    chosen = attention_linears(layers).keys() | convolutions(layers).keys()
    return {path: shape for path, shape in layers.items() if path in chosen}


def _in_blocks(layers: LayerShapes) -> dict[str, tuple[int, ...]]:
    return {
        path: shape
        for path, shape in layers.items()
        if in_block(path) and not runs_early(path) and path != _FIRST
    }
