"""Train a rank-limited basis, and content and style LoRAs on their own layers."""

from __future__ import annotations

from comfy_api.latest import io

from ..comfy_adapter.model.basis import apply_basis, load_basis
from ..comfy_adapter.model.lora_files import BranchFile
from ..comfy_adapter.page.sockets import CATEGORY, BranchesSocket, LoraModelSocket, LossMapSocket
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

BASIS, LORA = TRAINING["basis"], TRAINING["lora"]
TRAIN = f"{CATEGORY}/training"


class TrainBasis(io.ComfyNode):
    """CRAFT-LoRA's Sec. 3.3 (arXiv 2602.18936, Eqs. 1-4 and 12-16)."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CRAFTTrainBasis",
            display_name="Train Rank-Limited Basis",
            category=TRAIN,
            hidden=[io.Hidden.unique_id],
            is_input_list=True,
            description="Learns from contrastive pairs which directions of each layer content and "
            "style give up, saves them in output/craft_bases, and returns the model without "
            "them: the rank-limited backbone that content and style LoRAs are trained on.",
            search_aliases=["rank limited backbone", "craft train", "subspace", "PaRa"],
            inputs=[
                *source_inputs(),
                *slot_inputs(BASIS.traits.slots, "content_images", "style_images",
                             "content_captions", "style_captions"),
                save_name(BASIS.traits.slots.save_name, BASIS.traits.slots.folder),
                *slot_inputs(BASIS.traits.slots, "vgg"),
                *knob_widgets(BASIS),
                *how_inputs(),
            ],
            outputs=[
                io.Model.Output("limited_model", display_name="model",
                                tooltip="The model with both subspaces projected out."),
                LossMapSocket.Output("loss_map", tooltip="For the host's Plot Loss Graph."),
                io.String.Output("report", tooltip="The saved file, the losses, the settings."),
            ],
        )  # fmt: skip

    @classmethod
    def validate_inputs(cls, save_name=(None,), content_captions=(None,), style_captions=(None,)):
        return check_inputs(BASIS.traits.slots, locals())

    @classmethod
    def execute(
        cls, model, clip, vae, content_images, style_images, content_captions, style_captions,
        **settings,
    ) -> io.NodeOutput:  # fmt: skip
        source, filled, own = filled_slots(BASIS.traits.slots, locals())
        shown = watch(cls, own["steps"])
        trained = start_training(
            source, BASIS, filled, knobs_in(BASIS, own), how(own, shown), shown
        )
        limited = apply_basis(source.model, load_basis(trained.name))
        return io.NodeOutput(limited, {"loss": trained.losses}, trained.report)


class TrainLoRA(io.ComfyNode):
    """CRAFT-LoRA's Eq. 7 (arXiv 2602.18936): a LoRA that learns on its own layer set alone."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CRAFTTrainLoRA",
            display_name="Train Content/Style LoRA",
            category=TRAIN,
            hidden=[io.Hidden.unique_id],
            is_input_list=True,
            description="Learns one content or one style from one picture or a few, on that "
            "role's layers only. The file is a plain LoRA that loads everywhere; it is saved in "
            "output/loras. Connect 'branches' to the Router's extra_branches.",
            search_aliases=["dreambooth", "b-lora", "train lora", "one image", "layer restricted"],
            inputs=[
                *source_inputs(),
                *slot_inputs(LORA.traits.slots, "images", "captions", "role", "layer_sets"),
                save_name(LORA.traits.slots.save_name, LORA.traits.slots.folder),
                *knob_widgets(LORA),
                *how_inputs(),
                *slot_inputs(LORA.traits.slots, "prior_images", "prior_captions"),
                BranchesSocket.Input(
                    "branches", optional=True, tooltip="Branches to add this one to."
                ),
            ],
            outputs=[
                BranchesSocket.Output("branches_out", display_name="branches",
                                      tooltip="For the Router's extra_branches."),
                LoraModelSocket.Output("lora_model", tooltip="For the host's Load LoRA Model."),
                LossMapSocket.Output("loss_map", tooltip="For the host's Plot Loss Graph."),
                io.String.Output("report", tooltip="The saved file, the losses, the settings."),
            ],
        )  # fmt: skip

    @classmethod
    def validate_inputs(cls, save_name=(None,), captions=(None,), *, layer_sets=None):
        return check_inputs(LORA.traits.slots, locals(), layer_sets)

    @classmethod
    def execute(
        cls, model, clip, vae, images, captions, prior_images=(), prior_captions=(), **settings,
    ) -> io.NodeOutput:  # fmt: skip
        source, filled, own = filled_slots(LORA.traits.slots, locals())
        shown = watch(cls, own["steps"])
        trained = start_training(source, LORA, filled, knobs_in(LORA, own), how(own, shown), shown)
        branch = BranchFile(trained.name, own["role"], 1.0)
        branches = *(own.get("branches") or ()), branch
        return io.NodeOutput(
            branches, lora_state(trained.path), {"loss": trained.losses}, trained.report
        )
