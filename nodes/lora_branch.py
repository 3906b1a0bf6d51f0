"""Load LoRA Branch and LoRA List: more contents or styles than the Router's own two."""

from __future__ import annotations

from comfy_api.latest import io

from ..comfy_adapter.model.lora_files import (
    NONE,
    SAME,
    BranchFile,
    branches_of,
    check_own_layers,
    lora_choices,
    lora_stamps,
    require,
)
from ..comfy_adapter.page.pair import second_file_input
from ..comfy_adapter.page.sockets import CATEGORY, BranchesSocket
from ..craft_core.errors import CraftError
from ..craft_core.routing.lora_rows import read_rows
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


class LoRAList(io.ComfyNode):
    """The same as a chain of Load LoRA Branch, one for each row that is on."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CRAFTLoRAList",
            display_name="LoRA List",
            category=CATEGORY,
            description="Any number of content and style LoRAs for the Content/Style LoRA Router, "
            "a row each: file, role, strength, own layers, on or off. The same as a chain of Load "
            "LoRA Branch.",
            search_aliases=["craft list", "lora list", "lora rows", "lora stack", "multiple loras",
                            "many loras", "several loras", "power lora loader", "content lora",
                            "style lora"],
            inputs=[
                io.String.Input(
                    "loras", default="[]", dynamic_prompts=False, socketless=True,
                    tooltip="The rows, first to last, as JSON: a list of objects with lora (a "
                    "file) and role (content or style), and if wanted strength, on (true or "
                    "false), layers (own layer patterns, one a line) and second_lora (the file "
                    "for the Router's second_model).",
                ),
                BranchesSocket.Input(
                    "branches", optional=True, tooltip="Branches to add these to."
                ),
            ],
            outputs=[
                BranchesSocket.Output("branches_out", display_name="branches",
                                      tooltip="For the Router's extra_branches."),
            ],
        )  # fmt: skip

    @classmethod
    def validate_inputs(cls, loras=None):
        try:
            for name in _files(loras or ""):
                require(name)
        except CraftError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, loras=None, **others) -> str:
        return lora_stamps(*_files(loras or ""))

    @classmethod
    def execute(cls, loras, branches=()) -> io.NodeOutput:
        return io.NodeOutput((*branches, *branches_of(read_rows(loras))))


def _files(loras: str) -> list[str]:
    """The files that the rows that are on need."""
    branches = branches_of(read_rows(loras))
    further = [one.second for one in branches if one.second not in (SAME, NONE)]
    return [*(one.name for one in branches), *further]
