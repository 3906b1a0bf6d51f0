"""Load and train the expert encoder: a scale for each LoRA layer, by what the phrases say."""

from __future__ import annotations

from comfy_api.latest import io

from ..comfy_adapter.model.expert_encoder import (
    FOLDER,
    encoder_files,
    encoder_stamp,
    require_encoder,
)
from ..comfy_adapter.page.sockets import CATEGORY, EncoderSocket, LossMapSocket
from ..comfy_adapter.page.training import (
    check_inputs,
    filled_slots,
    how,
    how_inputs,
    knobs_in,
    save_name,
    slot_inputs,
    watch,
)
from ..comfy_adapter.page.widgets import knob_widgets
from ..comfy_adapter.train.start import start_training
from ..craft_core.errors import CraftError
from ..craft_core.training import TRAINING
from .training import TRAIN

EXPERTS = TRAINING["expert_encoder"]
NO_FILES = f"(none in models/{FOLDER})"


class LoadExpertEncoder(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CRAFTLoadExpertEncoder",
            display_name="Load Expert Encoder",
            category=CATEGORY,
            description="An expert encoder for the Content/Style LoRA Router: it reads the marked "
            "phrases and gives each layer of each LoRA its own scale.",
            search_aliases=["craft encoder", "expert encoder", "adaptive lora strength"],
            inputs=[
                io.Combo.Input(
                    "encoder", options=encoder_files() or [NO_FILES],
                    tooltip=f"A file of models/{FOLDER} or output/{FOLDER}, made by Train Expert "
                    "Encoder for the same LoRAs.",
                ),
            ],
            outputs=[
                EncoderSocket.Output("expert_encoder", tooltip="For the Router's expert_encoder."),
            ],
        )  # fmt: skip

    @classmethod
    def validate_inputs(cls, encoder: str | None = None) -> bool | str:
        if encoder is None:  # linked
            return True
        try:
            require_encoder(encoder)
        except CraftError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, encoder: str | None = None) -> str:
        return "" if encoder is None else encoder_stamp(encoder)

    @classmethod
    def execute(cls, encoder: str) -> io.NodeOutput:
        require_encoder(encoder)
        return io.NodeOutput(encoder)


class TrainEncoder(io.ComfyNode):
    """CRAFT-LoRA's App. B.1 (arXiv 2602.18936)."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CRAFTTrainEncoder",
            display_name="Train Expert Encoder",
            category=TRAIN,
            hidden=[io.Hidden.unique_id],
            is_input_list=True,
            description="Learns, with the LoRAs frozen, how much of each LoRA layer a marked "
            "phrase calls for, and saves that in output/craft_encoders. Pictures of other contents "
            "and styles teach it where a LoRA does not belong.",
            search_aliases=["craft train", "expert encoder", "lora scales", "semantic extension"],
            inputs=[
                io.Model.Input("model", tooltip="The model the LoRAs act on; it is not changed."),
                io.Clip.Input("clip", tooltip="Encodes captions and phrases; the Router needs the "
                              "same one."),
                io.Vae.Input("vae", tooltip="Encodes the pictures."),
                *slot_inputs(EXPERTS.traits.slots, "images", "captions", "branches", "layer_sets"),
                save_name(EXPERTS.traits.slots.save_name, EXPERTS.traits.slots.folder),
                *knob_widgets(EXPERTS),
                *how_inputs(),
                *slot_inputs(EXPERTS.traits.slots, "other_images", "other_captions",
                             "allow_unmatched"),
            ],
            outputs=[
                EncoderSocket.Output("expert_encoder", tooltip="For the Router's expert_encoder."),
                LossMapSocket.Output("loss_map", tooltip="For the host's Plot Loss Graph."),
                io.String.Output("report", tooltip="The saved file, the losses, the layers."),
            ],
        )  # fmt: skip

    @classmethod
    def validate_inputs(cls, save_name=(None,), captions=(None,), *, layer_sets=None):
        return check_inputs(EXPERTS.traits.slots, locals(), layer_sets)

    @classmethod
    def execute(
        cls, model, clip, vae, images, captions, other_images=(), other_captions=(), **settings,
    ) -> io.NodeOutput:  # fmt: skip
        source, filled, own = filled_slots(EXPERTS.traits.slots, locals())
        shown = watch(cls, own["steps"])
        trained = start_training(
            source, EXPERTS, filled, knobs_in(EXPERTS, own), how(own, shown), shown
        )
        return io.NodeOutput(trained.name, {"loss": trained.losses}, trained.report)
