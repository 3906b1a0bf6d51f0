"""A trained small text-to-image world, and the node pack that lets an unmodified ComfyUI load it.

Loaded by the host as a custom node it teaches the stock checkpoint loader one more model class,
adds this folder's models to the host's model folders, and has one node, Small World Judge.
Imported as a plain package it needs no host; `small_world.world` draws the pictures with numpy and
Pillow alone.
"""


async def comfy_entrypoint():
    """Entry point of the host's V3 loader; returns the extension."""
    from .extension import SmallWorldExtension

    return SmallWorldExtension()


__all__ = ["comfy_entrypoint"]
