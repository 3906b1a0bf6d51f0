"""A UNet layer's latent resolution, read off the down- and upsampling structure.

DuoLoRA (Roy et al. 2025), arXiv:2504.13206, Sec. 3.3: layers below resolution 32 are dominated
by content, the others by style. The paper names down_blocks.2 and mid_block as content and
down_blocks.1 as style. That holds for SDXL at a latent side of 64 (512 px): at its native 128 no
layer is below 32. So 64 is the default, for SDXL as for SD1.x; the latent side is an argument.
"""

from __future__ import annotations

from ..errors import CraftError
from ..lora.keys import unet_diffusers_paths
from ..types import LayerShapes

LATENT_SIZE = 64
BOUNDARY = 32


def latent_resolutions(layers: LayerShapes, latent_size: int = LATENT_SIZE) -> dict[str, int]:
    """Side of the latent grid that a layer works on, by module path.

    latent_size: side of the latent the UNet is given. A level halves it, rounding up. A sampler's
    convolution counts with the block it ends; layers outside the grid (time and label embeddings)
    are left out. Raises CraftError for a model that is no UNet.
    """
    names = unet_diffusers_paths(layers)
    if not names:
        raise CraftError(
            "The model has no UNet blocks to read resolutions from",
            "Splitting by resolution works for UNets (SD1.x, SD2.x, SDXL)",
            "Choose the preset auto, or write the layer patterns yourself",
        )
    if latent_size < 1:
        raise CraftError(
            f"The latent size is {latent_size}",
            "It is the side of the latent: 64 for 512 px, 128 for 1024 px",
            "Set a size of at least 1",
        )
    depth = 1 + max((_number(name) for name in names if name.startswith("up_blocks.")), default=0)
    return {
        path: _halved(latent_size, level)
        for name, path in names.items()
        if (level := _level(name, depth)) is not None
    }


def _level(name: str, depth: int) -> int | None:
    """How many times the grid was halved where a diffusers-named layer works."""
    stage = name.split(".", 1)[0]
    if stage == "down_blocks":
        return _number(name)
    if stage == "mid_block":
        return depth - 1
    if stage == "up_blocks":
        return depth - 1 - _number(name)
    return 0 if stage in ("conv_in", "conv_out") else None


def _number(name: str) -> int:
    return int(name.split(".", 2)[1])


def _halved(size: int, times: int) -> int:
    for _ in range(times):
        size = (size + 1) // 2
    return size
