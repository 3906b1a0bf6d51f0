"""The host's side of loading: an extension that registers the small world and has one node."""

from comfy_api.latest import ComfyExtension

from .judge_node import SmallWorldJudge
from .register import register


class SmallWorldExtension(ComfyExtension):
    """Registers the model class and the model folders when the host loads the pack."""

    async def on_load(self) -> None:
        register()

    async def get_node_list(self) -> list:
        return [SmallWorldJudge]
