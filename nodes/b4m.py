"""Train one half of a B4M pair; Learn LoRA Merge joins two."""

from __future__ import annotations

from comfy_api.latest import io

from ..comfy_adapter.model.lora_files import BranchFile
from ..comfy_adapter.page.sockets import Branches, LoraModel, LossMap
from ..comfy_adapter.page.widgets import knob_widgets, layer_set_menu, single
from ..comfy_adapter.train.start import train
from ..comfy_adapter.train.train import Captioned, Filled, lora_state
from ..comfy_adapter.use.router import layer_set_text
from ..craft_core.training import TRAINING
from ..craft_core.types import ROLES
from .training import (
    TRAIN,
    answer,
    captions_input,
    how,
    how_inputs,
    knobs,
    save_name,
    source,
    source_inputs,
    watch,
)


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
                io.Image.Input("images", tooltip="What to learn: one image is enough."),
                captions_input("captions", "a photo of sks dog"),
                io.Combo.Input("role", options=list(ROLES),
                               tooltip="Which half: content or style. A pair needs one of each."),
                layer_set_menu("layer_sets", auto=False, default="all"),
                save_name("craft/half", "output/loras"),
                *knob_widgets(TRAINING["b4m_half"]),
                *how_inputs(),
                io.Image.Input("partner_images", optional=True,
                               tooltip="Varied pictures of the other role, about five: styles for "
                               "a content half, contents for a style half. They keep out of this "
                               "half what its own pictures only happen to have."),
                io.String.Input("partner_captions", multiline=True, default="", optional=True,
                                tooltip="A caption for each partner image, or one for all."),
                Branches.Input("branches", optional=True, tooltip="Branches to add this one to, "
                               "such as the other half's."),
            ],
            outputs=[
                Branches.Output("branches_out", display_name="branches",
                                tooltip="For Learn LoRA Merge, or the Router's extra_branches."),
                LoraModel.Output("lora_model", tooltip="For the host's Load LoRA Model."),
                LossMap.Output("loss_map", tooltip="For the host's Plot Loss Graph."),
                io.String.Output("report", tooltip="The saved file, the losses, the settings."),
            ],
        )  # fmt: skip

    @classmethod
    def validate_inputs(cls, save_name=(None,), captions=(None,), *, layer_sets=None):
        return answer(save_name, captions, layer_sets)

    @classmethod
    def execute(
        cls, model, clip, vae, images, captions, partner_images=(), partner_captions=(),
        **settings,
    ) -> io.NodeOutput:  # fmt: skip
        own = single(settings)
        role, branches = own["role"], own.pop("branches", None) or ()
        shown = watch(cls, own)
        pictures = {"images": Captioned(images, captions)}
        if partner_images:
            pictures["partners"] = Captioned(partner_images, partner_captions)
        choices = {"role": role, "layer_sets": layer_set_text(own["layer_sets"])}
        trained = train(
            source(model, clip, vae), TRAINING["b4m_half"], Filled(pictures, (), choices),
            knobs("b4m_half", own), how(own, shown), shown,
        )  # fmt: skip
        branch = BranchFile(trained.name, role, 1.0)
        return io.NodeOutput(
            (*branches, branch), lora_state(trained.path), {"loss": trained.losses}, trained.report
        )
