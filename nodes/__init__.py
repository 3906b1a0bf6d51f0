"""The menus: one file per family of nodes, each a schema and a few lines."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from ..comfy_adapter.page.boundary import bounded
from ..comfy_adapter.page.routes import add_page_routes, let_go_between_prompts
from .acfg import ACFGGuider, ACFGKSampler
from .compare import ComparisonGrid, MethodSweep, XYGrid
from .expert_encoder import LoadExpertEncoder
from .fuse import FuseToFile
from .learn_merge import LearnMerge
from .lora_branch import LoadLoRABranch, LoRAList
from .pair_builder import PairBuilder
from .rank_limited import LoadRankLimitedUNet
from .router import Router
from .schedule import TimestepSchedule
from .score import ContentStyleScore, FindBest, LoadCSD, LoadTextEncoder
from .training import FROM_PICTURES, TRAINING_NODES

_ALL: list[type[io.ComfyNode]] = [
    LoadRankLimitedUNet,
    LoadLoRABranch,
    LoRAList,
    Router,
    TimestepSchedule,
    ACFGGuider,
    ACFGKSampler,
    MethodSweep,
    ComparisonGrid,
    ContentStyleScore,
    LoadCSD,
    LoadTextEncoder,
    FindBest,
    XYGrid,
    FuseToFile,
    PairBuilder,
    LoadExpertEncoder,
    *TRAINING_NODES.values(),
    *FROM_PICTURES.values(),
    LearnMerge,
]
NODES = [bounded(node) for node in _ALL]


class CraftExtension(ComfyExtension):
    async def on_load(self) -> None:
        add_page_routes()
        let_go_between_prompts()

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return NODES


async def comfy_entrypoint() -> CraftExtension:
    return CraftExtension()
