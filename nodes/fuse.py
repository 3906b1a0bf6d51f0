"""Fuse LoRAs to File: a content and a style LoRA become one that loads everywhere."""

from __future__ import annotations

from comfy_api.latest import io

from ..comfy_adapter.model.lora_files import FOLDER, lora_stamps
from ..comfy_adapter.page.notice import tell
from ..comfy_adapter.page.pair import pair_inputs
from ..comfy_adapter.page.sockets import CATEGORY, BranchesSocket, LoraModelSocket
from ..comfy_adapter.page.training import save_name
from ..comfy_adapter.page.widgets import layer_set_menu, method_menu
from ..comfy_adapter.train.run import save_place
from ..comfy_adapter.train.train import lora_state
from ..comfy_adapter.use.fuse_file import (
    METHODS,
    SAVED_AS,
    FuseRequest,
    LayerProgress,
    check_fuse,
    fuse_branches,
    save_fused,
)
from ..comfy_adapter.use.router import layer_set_text, with_own_loras
from ..craft_core.starting import FULL_STRENGTH


class FuseToFile(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CRAFTFuseToFile",
            display_name="Fuse LoRAs to File",
            category=CATEGORY,
            is_output_node=True,
            hidden=[io.Hidden.unique_id],
            description="Bakes a content LoRA and a style LoRA into one plain LoRA file, saved in "
            "output/loras, that loads everywhere. The report says how far the file is from what "
            "the method gives. For the Router's markers, schedule and asymmetric guidance keep "
            "the LoRAs apart.",
            search_aliases=["merge loras", "mix loras", "combine two loras", "save lora", "ties",
                            "dare", "knots", "svd", "k-lora"],
            inputs=[
                io.Model.Input(
                    "model", tooltip="The model the LoRAs are for: it knows the layers' names and "
                    "shapes. Its weights are not used.",
                ),
                *pair_inputs(
                    "Multiplies the content LoRA, and extra contents: before a merge of weights "
                    "sees them, after a method of the Router has chosen. 0: off.",
                    "Multiplies the style LoRA, and extra styles: before a merge of weights sees "
                    "them, after a method of the Router has chosen. 0: off.",
                    FULL_STRENGTH,
                ),
                layer_set_menu("layer_sets"),
                method_menu(
                    "method", METHODS, "How the LoRAs become one: the Router's methods, frozen "
                    "with every marker present, then merges of the weights.",
                ),
                io.Float.Input(
                    "progress", default=0.5, min=0.0, max=1.0, step=0.01,
                    tooltip="Where in sampling a method that moves with time is taken: 0 the first "
                    "step, 1 the last. Other methods ignore it.",
                ),
                io.Int.Input(
                    "steps", default=20, min=1, max=10000, advanced=True,
                    tooltip="Steps of the sampling that progress is a place in.",
                ),
                io.Int.Input(
                    "rank", default=0, min=0, max=4096,
                    tooltip="Rank of the file; what is cut off is in the report. 0: as many as the "
                    "method needs, so that just rounding is lost. TIES and DARE have full rank and "
                    "need a number.",
                ),
                io.Combo.Input(
                    "save_as", options=list(SAVED_AS), default="fp16", advanced=True,
                    tooltip="Type of the saved numbers; its rounding is in the report's error.",
                ),
                save_name("craft/fused", "loras"),
                BranchesSocket.Input(
                    "extra_branches", optional=True,
                    tooltip="Further contents or styles, from LoRA List or Load LoRA Branch.",
                ),
                io.Boolean.Input(
                    "allow_unmatched", default=False, optional=True, advanced=True,
                    tooltip="Off: LoRA keys or layer patterns that match nothing are an error. "
                    "On: they are listed in the report and left out.",
                ),
            ],
            outputs=[
                LoraModelSocket.Output("lora_model", tooltip="For the host's Load LoRA Model."),
                io.String.Output("report", tooltip="The saved file, its layers, its errors."),
            ],
        )  # fmt: skip

    @classmethod
    def validate_inputs(cls, save_name=None, rank=None, *, layer_sets=None, method=None):
        return check_fuse(save_name, layer_sets, method, rank)

    @classmethod
    def fingerprint_inputs(cls, content_lora=None, style_lora=None, **others) -> str:
        return lora_stamps(content_lora, style_lora)

    @classmethod
    def execute(
        cls, model, content_lora, style_lora, content_strength, style_strength, layer_sets, method,
        progress, steps, rank, save_as, save_name, extra_branches=(), allow_unmatched=False,
    ) -> io.NodeOutput:  # fmt: skip
        place = save_place(save_name, FOLDER)
        branches = with_own_loras(
            (content_lora, style_lora), (content_strength, style_strength), extra_branches or ()
        )
        request = FuseRequest(
            branches, layer_set_text(layer_sets), method, progress, steps, rank, save_as,
            allow_unmatched,
        )  # fmt: skip
        result = fuse_branches(model, request, LayerProgress())
        place = save_fused(result, place)
        report = f"Saved {place.name}\n{result.report}"
        tell(cls, report)
        return io.NodeOutput(lora_state(place.path), report)
