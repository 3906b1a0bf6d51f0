"""The linear and convolution layers of the true SD1.x and SDXL UNets, as LDM module paths.

Compact generators of (path -> weight shape) in forward depth order. The host tier checks them
against the host's own model classes.
"""

from __future__ import annotations

Layers = dict[str, tuple[int, ...]]

TIME = 1280  # width of the time embedding


def sd1_layers() -> Layers:
    """SD1.x: 1x1 convolutions around the transformers, attention at the three upper levels."""
    return unet_layers((320, 640, 1280, 1280), (1, 1, 1, 0), 768, middle=1, linear=False)


def sdxl_layers() -> Layers:
    """SDXL base: linear projections, no attention at the first level, 10 blocks deep below."""
    return unet_layers((320, 640, 1280), (0, 2, 10), 2048, middle=10, linear=True, label=2816)


def unet_layers(
    widths: tuple[int, ...],
    depths: tuple[int, ...],
    context: int,
    middle: int,
    linear: bool,
    label: int = 0,
    resnets: int = 2,
) -> Layers:
    """Layers of an LDM UNet. widths, depths: channels and transformer depth by level."""
    first = widths[0]
    layers: Layers = {"time_embed.0": (TIME, first), "time_embed.2": (TIME, TIME)}
    if label:
        layers |= {"label_emb.0.0": (TIME, label), "label_emb.0.2": (TIME, TIME)}
    layers["input_blocks.0.0"] = (first, 4, 3, 3)
    skips, number, channels = [first], 1, first
    for level, (width, depth) in enumerate(zip(widths, depths, strict=True)):
        for _ in range(resnets):
            prefix = f"input_blocks.{number}"
            layers |= _resnet(f"{prefix}.0", channels, width)
            layers |= _attention(f"{prefix}.1", width, depth, context, linear)
            channels, number = width, number + 1
            skips.append(channels)
        if level < len(widths) - 1:
            layers[f"input_blocks.{number}.0.op"] = (channels, channels, 3, 3)
            number += 1
            skips.append(channels)
    layers |= _resnet("middle_block.0", channels, channels)
    layers |= _attention("middle_block.1", channels, middle, context, linear)
    layers |= _resnet("middle_block.2", channels, channels)
    number = 0
    for level, (width, depth) in reversed(list(enumerate(zip(widths, depths, strict=True)))):
        for index in range(resnets + 1):
            prefix = f"output_blocks.{number}"
            layers |= _resnet(f"{prefix}.0", channels + skips.pop(), width)
            layers |= _attention(f"{prefix}.1", width, depth, context, linear)
            channels, number = width, number + 1
            if level and index == resnets:
                layers[f"{prefix}.{2 if depth else 1}.conv"] = (width, width, 3, 3)
    layers["out.2"] = (4, first, 3, 3)
    return layers


def _resnet(prefix: str, channels: int, out: int) -> Layers:
    layers: Layers = {
        f"{prefix}.in_layers.2": (out, channels, 3, 3),
        f"{prefix}.emb_layers.1": (out, TIME),
        f"{prefix}.out_layers.3": (out, out, 3, 3),
    }
    if channels != out:
        layers[f"{prefix}.skip_connection"] = (out, channels, 1, 1)
    return layers


def _attention(prefix: str, width: int, depth: int, context: int, linear: bool) -> Layers:
    if not depth:
        return {}
    projection = (width, width) if linear else (width, width, 1, 1)
    layers: Layers = {f"{prefix}.proj_in": projection}
    for block in range(depth):
        inner = f"{prefix}.transformer_blocks.{block}"
        for name, source in (("attn1", width), ("attn2", context)):
            layers[f"{inner}.{name}.to_q"] = (width, width)
            layers[f"{inner}.{name}.to_k"] = (width, source)
            layers[f"{inner}.{name}.to_v"] = (width, source)
            layers[f"{inner}.{name}.to_out.0"] = (width, width)
        layers[f"{inner}.ff.net.0.proj"] = (8 * width, width)
        layers[f"{inner}.ff.net.2"] = (width, 4 * width)
    layers[f"{prefix}.proj_out"] = projection
    return layers
