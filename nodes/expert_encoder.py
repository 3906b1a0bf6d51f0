"""Load an expert encoder: a scale for each LoRA layer, by what the phrases say."""

from __future__ import annotations

from comfy_api.latest import io

from ..comfy_adapter.model.expert_encoder import (
    FOLDER,
    encoder_files,
    encoder_stamp,
    require_encoder,
)
from ..comfy_adapter.page.sockets import CATEGORY, EncoderSocket
from ..craft_core.errors import CraftError

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
