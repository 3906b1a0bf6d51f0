"""Train one half of a B4M pair; Learn LoRA Merge joins two."""

from __future__ import annotations

from comfy_api.latest import io

from ..comfy_adapter.model.lora_files import BranchFile
from ..comfy_adapter.page.sockets import BranchesSocket, LoraModelSocket, LossMapSocket
from ..comfy_adapter.page.training import (
    check_inputs,
    filled_slots,
    how,
    how_inputs,
    knobs_in,
    save_name,
    slot_inputs,
    source_inputs,
    watch,
)
from ..comfy_adapter.page.widgets import knob_widgets
from ..comfy_adapter.train.start import start_training
from ..comfy_adapter.train.train import lora_state
from ..craft_core.training import TRAINING
from .training import TRAIN

HALF = TRAINING["b4m_half"]


class TrainB4M(io.ComfyNode):
    """B4M's first stage (arXiv 2403.19456, Eqs. 4-12)."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CRAFTTrainB4M",
            display_name="Train B4M Half",
            category=TRAIN,
            hidden=[io.Hidden.unique_id],
            is_input_list=True,
            description="Learns one content or one style as one half of a LoRA whose other half is "
            "frozen, so that a content half and a style half can be joined by Learn LoRA Merge. A "
            "half is a plain LoRA too; it is saved in output/loras.",
            search_aliases=["break for make", "b4m", "plp", "mcp", "partly learnable projection"],
            inputs=[
                *source_inputs(),
                *slot_inputs(HALF.traits.slots, "images", "captions", "role", "layer_sets"),
                save_name(HALF.traits.slots.save_name, HALF.traits.slots.folder),
                *knob_widgets(HALF),
                *how_inputs(),
                *slot_inputs(HALF.traits.slots, "partner_images", "partner_captions"),
                BranchesSocket.Input(
                    "branches", optional=True,
                    tooltip="Branches to add this one to, such as the other half's.",
                ),
            ],
            outputs=[
                BranchesSocket.Output(
                    "branches_out", display_name="branches",
                    tooltip="For Learn LoRA Merge, or the Router's extra_branches.",
                ),
                LoraModelSocket.Output("lora_model", tooltip="For the host's Load LoRA Model."),
                LossMapSocket.Output("loss_map", tooltip="For the host's Plot Loss Graph."),
                io.String.Output("report", tooltip="The saved file, the losses, the settings."),
            ],
        )  # fmt: skip

    @classmethod
    def validate_inputs(cls, save_name=(None,), captions=(None,), *, layer_sets=None):
        return check_inputs(HALF.traits.slots, locals(), layer_sets)

    @classmethod
    def execute(
        cls, model, clip, vae, images, captions, partner_images=(), partner_captions=(), **settings,
    ) -> io.NodeOutput:  # fmt: skip
        source, filled, own = filled_slots(HALF.traits.slots, locals())
        shown = watch(cls, own["steps"])
        trained = start_training(source, HALF, filled, knobs_in(HALF, own), how(own, shown), shown)
        branch = BranchFile(trained.name, own["role"], 1.0)
        branches = *(own.get("branches") or ()), branch
        return io.NodeOutput(
            branches, lora_state(trained.path), {"loss": trained.losses}, trained.report
        )
