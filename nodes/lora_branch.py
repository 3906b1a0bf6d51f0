"""Load LoRA Branch: more contents or styles than the Router's own two."""

from __future__ import annotations

from comfy_api.latest import io

from ..comfy_adapter.model.lora_files import (
    SAME,
    BranchFile,
    check_own_layers,
    lora_choices,
    lora_stamps,
)
from ..comfy_adapter.page.pair import second_file_input
from ..comfy_adapter.page.sockets import CATEGORY, BranchesSocket
from ..craft_core.types import ROLES


class LoadLoRABranch(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CRAFTLoadLoRABranch",
            display_name="Load LoRA Branch",
            category=CATEGORY,
            description="One more content or style LoRA for the Content/Style LoRA Router. "
            "Chain several through 'branches'.",
            search_aliases=["craft branch", "content lora", "style lora", "extra lora",
                            "lora stack"],
            inputs=[
                io.Combo.Input(
                    "lora", options=lora_choices(), tooltip="A LoRA file of models/loras."
                ),
                io.Combo.Input(
                    "role",
                    options=list(ROLES),
                    tooltip="content follows <c>, the content layers and the content curve of the "
                    "schedule; style follows <s> and the style ones.",
                ),
                io.Float.Input(
                    "strength", default=1.0, min=-10.0, max=10.0, step=0.05,
                    tooltip="How strongly the LoRA acts; multiplies its update once.",
                ),
                io.String.Input(
                    "layers", default="", multiline=True, optional=True, advanced=True,
                    tooltip="The only layers it acts on, by any method, in place of the role's "
                    "set: one pattern a line, e.g. up_blocks.0.attentions.1 or "
                    "double_blocks.0..9. Empty: the role's set.",
                ),
                BranchesSocket.Input(
                    "branches", optional=True, tooltip="Branches to add this one to."
                ),
                second_file_input(
                    "second_lora", "The file in its place for the Router's second_model, where "
                    "files come in pairs (high and low noise). same: this one.",
                ),
            ],
            outputs=[
                BranchesSocket.Output("branches_out", display_name="branches",
                                      tooltip="For the Router's extra_branches."),
            ],
        )  # fmt: skip

    @classmethod
    def validate_inputs(cls, layers=""):
        return check_own_layers(layers or "")

    @classmethod
    def fingerprint_inputs(cls, lora=None, second_lora=None, **others) -> str:
        return lora_stamps(lora, second_lora)

    @classmethod
    def execute(
        cls, lora, role, strength, layers="", branches=(), second_lora=SAME
    ) -> io.NodeOutput:
        added = BranchFile(lora, role, strength, layers, second=second_lora)
        return io.NodeOutput((*branches, added))
