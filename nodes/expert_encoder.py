"""Load and train the expert encoder: a scale for each LoRA layer, by what the phrases say."""

from __future__ import annotations

from comfy_api.latest import io

from ..comfy_adapter.model.expert_encoder import (
    FOLDER,
    encoder_files,
    encoder_stamp,
    require_encoder,
)
from ..comfy_adapter.page.sockets import CATEGORY, Branches, Encoder, LossMap
from ..comfy_adapter.page.widgets import knob_widgets, layer_set_menu, single
from ..comfy_adapter.train.start import train
from ..comfy_adapter.train.train import Captioned, Filled
from ..comfy_adapter.use.router import layer_set_text
from ..craft_core.errors import CraftError
from ..craft_core.training import TRAINING
from .training import TRAIN, answer, how, how_inputs, knobs, save_name, source, watch

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
                Encoder.Output("expert_encoder", tooltip="For the Router's expert_encoder."),
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
                io.Image.Input("images", tooltip="Pictures of what the LoRAs were trained for."),
                io.String.Input("captions", multiline=True, default="", dynamic_prompts=False,
                                placeholder="<c>a sks dog</c> in <s>watercolor style</s>",
                                tooltip="What the pictures show, phrases marked as for the Router: "
                                "a line for each, one line for all, or a list of texts."),
                Branches.Input("branches", tooltip="The LoRAs, from Load LoRA Branch or Train "
                               "Content/Style LoRA: the same as in the Router."),
                layer_set_menu("layer_sets"),
                save_name("craft/encoder", f"output/{FOLDER}"),
                *knob_widgets(TRAINING["expert_encoder"]),
                *how_inputs(),
                io.Image.Input("other_images", optional=True,
                               tooltip="Pictures of other contents and styles, on which LoRAs that "
                               "do not belong there learn to step back."),
                io.String.Input("other_captions", multiline=True, default="", optional=True,
                                dynamic_prompts=False,
                                tooltip="A marked caption for each other image, or one for all, "
                                "e.g. '<c>a bicycle</c> in <s>sketch style</s>'."),
                io.Boolean.Input(
                    "allow_unmatched", default=False, optional=True, advanced=True,
                    tooltip="Off: LoRA keys or layer patterns that match nothing are an error. "
                    "On: they are listed in the report and ignored.",
                ),
            ],
            outputs=[
                Encoder.Output("expert_encoder", tooltip="For the Router's expert_encoder."),
                LossMap.Output("loss_map", tooltip="For the host's Plot Loss Graph."),
                io.String.Output("report", tooltip="The saved file, the losses, the layers."),
            ],
        )  # fmt: skip

    @classmethod
    def validate_inputs(cls, save_name=(None,), captions=(None,), *, layer_sets=None):
        return answer(save_name, captions, layer_sets)

    @classmethod
    def execute(
        cls, model, clip, vae, images, captions, other_images=(), other_captions=(), **settings
    ) -> io.NodeOutput:
        own = single(settings)
        pictures = {"images": Captioned(images, captions)}
        if other_images:
            pictures["other"] = Captioned(other_images, other_captions)
        choices = {
            "layer_sets": layer_set_text(own["layer_sets"]),
            "allow_unmatched": own.get("allow_unmatched", False),
        }
        shown = watch(cls, own)
        trained = train(
            source(model, clip, vae), TRAINING["expert_encoder"],
            Filled(pictures, own["branches"], choices),
            knobs("expert_encoder", own), how(own, shown), shown,
        )  # fmt: skip
        return io.NodeOutput(trained.name, {"loss": trained.losses}, trained.report)
