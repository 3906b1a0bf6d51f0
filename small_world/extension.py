"""The host's side of loading: an extension without nodes that registers the small world."""

from comfy_api.latest import ComfyExtension

from .register import register


class SmallWorldExtension(ComfyExtension):
    """Registers the model class and the model folders when the host loads the pack."""

    async def on_load(self) -> None:
        register()

    async def get_node_list(self) -> list:
        return []
