"""Learn LoRA Merge: how much of each LoRA's pieces to keep where content and style meet."""

from __future__ import annotations

from comfy_api.latest import io

from ..comfy_adapter.model.lora_files import BranchFile
from ..comfy_adapter.page.sockets import BranchesSocket, LoraModelSocket, LossMapSocket
from ..comfy_adapter.page.training import (
    check_inputs,
    filled_slots,
    fit_inputs,
    how,
    how_inputs,
    save_name,
    slot_inputs,
    source_inputs,
    watch,
)
from ..comfy_adapter.page.widgets import chosen, method_menu
from ..comfy_adapter.train.start import start_training
from ..comfy_adapter.train.train import lora_state
from ..craft_core.training import LEARNED
from ..craft_core.training.merge import MERGE_SLOTS
from .training import TRAIN


class LearnMerge(io.ComfyNode):
    """ZipLoRA (arXiv 2311.13600), DuoLoRA (arXiv 2504.13206), B4M (arXiv 2403.19456)."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CRAFTLearnMerge",
            display_name="Learn LoRA Merge",
            category=TRAIN,
            hidden=[io.Hidden.unique_id],
            is_input_list=True,
            description="Merges content and style LoRAs into one by a short training on the "
            "pictures they were made of, saved in output/loras. The file is a plain LoRA that "
            "loads everywhere; give it its own prompt words, as the LoRAs had them.",
            search_aliases=["ziplora", "duolora", "b4m", "merge loras", "mix loras",
                            "combine two loras"],
            inputs=[
                *source_inputs(),
                *slot_inputs(MERGE_SLOTS, "branches", "content_images", "content_captions",
                             "style_images", "style_captions", "fused_prompt"),
                method_menu("method", LEARNED, "How the merge is learned."),
                save_name(MERGE_SLOTS.save_name, MERGE_SLOTS.folder),
                *how_inputs(),
                *slot_inputs(MERGE_SLOTS, "allow_unmatched"),
                *fit_inputs(),
            ],
            outputs=[
                BranchesSocket.Output("branches_out", display_name="branches",
                                      tooltip="The merged LoRA alone, as a content branch."),
                LoraModelSocket.Output("lora_model", tooltip="For the host's Load LoRA Model."),
                LossMapSocket.Output("loss_map", tooltip="For the host's Plot Loss Graph."),
                io.String.Output("report", tooltip="The saved file, the losses, the settings."),
            ],
        )  # fmt: skip

    @classmethod
    def validate_inputs(
        cls, save_name=(None,), content_captions=(None,), style_captions=(None,), *, method=None
    ):
        if method is None:
            return f"method: choose one of {', '.join(LEARNED.keys())}."
        return check_inputs(MERGE_SLOTS, locals())

    @classmethod
    def execute(
        cls, model, clip, vae, content_images, style_images, content_captions, style_captions,
        **settings,
    ) -> io.NodeOutput:  # fmt: skip
        inputs = {**locals(), **settings}
        del inputs["cls"], inputs["settings"]
        source, filled, own = filled_slots(MERGE_SLOTS, inputs)
        method, knobs = chosen(own["method"], "method", LEARNED)
        shown = watch(cls, knobs["steps"])
        trained = start_training(source, method, filled, knobs, how(own, shown), shown)
        return io.NodeOutput(
            (BranchFile(trained.name, "content", 1.0),), lora_state(trained.path),
            {"loss": trained.losses}, trained.report,
        )  # fmt: skip
