"""Learn LoRA Merge: how much of each LoRA's pieces to keep where content and style meet."""

from __future__ import annotations

from comfy_api.latest import io

from ..comfy_adapter.model.lora_files import BranchFile
from ..comfy_adapter.page.notice import tell
from ..comfy_adapter.page.sockets import Branches, LoraModel, LossMap
from ..comfy_adapter.page.widgets import chosen, method_menu, single, single_or_none
from ..comfy_adapter.train.data import check_texts
from ..comfy_adapter.train.run import PageWatch
from ..comfy_adapter.train.start import train
from ..comfy_adapter.train.train import Captioned, Filled, lora_state
from ..craft_core.training import LEARNED
from .training import TRAIN, captions_input, how, how_inputs, save_name, source, source_inputs


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
            search_aliases=["ziplora", "duolora", "b4m", "merge loras", "combine loras"],
            inputs=[
                *source_inputs(),
                Branches.Input("branches", tooltip="The LoRAs to merge, from Load LoRA Branch or "
                               "Train Content/Style LoRA; their strengths count."),
                io.Image.Input("content_images", tooltip="What the content LoRA was trained on. "
                               "For several content LoRAs as many for each, in their order."),
                captions_input("content_captions", "a photo of a sks dog"),
                io.Image.Input("style_images", tooltip="What the style LoRA was trained on."),
                captions_input("style_captions", "a house in zwx style"),
                io.String.Input(
                    "fused_prompt", multiline=True, default="", dynamic_prompts=False,
                    placeholder="a sks dog in zwx style",
                    tooltip="The content in the style, in the LoRAs' own words; a line for each "
                    "content LoRA, or one for all. DuoLoRA needs it for its cycles, others do not.",
                ),
                method_menu("method", LEARNED, "How the merge is learned."),
                save_name("craft/merged", "output/loras"),
                *how_inputs(),
                io.Boolean.Input(
                    "allow_unmatched", default=False, optional=True, advanced=True,
                    tooltip="Off: LoRA keys that match nothing are an error. On: they are listed "
                    "in the report and left out.",
                ),
            ],
            outputs=[
                Branches.Output("branches_out", display_name="branches",
                                tooltip="The merged LoRA alone, as a content branch."),
                LoraModel.Output("lora_model", tooltip="For the host's Load LoRA Model."),
                LossMap.Output("loss_map", tooltip="For the host's Plot Loss Graph."),
                io.String.Output("report", tooltip="The saved file, the losses, the settings."),
            ],
        )  # fmt: skip

    @classmethod
    def validate_inputs(
        cls, save_name=(None,), content_captions=(None,), style_captions=(None,), *, method=None
    ):
        if method is None:
            return f"method: choose one of {', '.join(LEARNED.keys())}."
        captions = {"content": content_captions, "style": style_captions}
        return check_texts(single_or_none(save_name), captions)

    @classmethod
    def execute(
        cls, model, clip, vae, content_images, style_images, content_captions, style_captions,
        **settings,
    ) -> io.NodeOutput:  # fmt: skip
        own = single(settings)
        method, knobs = chosen(own["method"], "method", LEARNED)
        filled = Filled(
            {
                "content": Captioned(content_images, content_captions),
                "style": Captioned(style_images, style_captions),
            },
            own["branches"],
            {
                "fused_prompt": own["fused_prompt"],
                "allow_unmatched": own.get("allow_unmatched", False),
            },
        )
        shown = PageWatch(knobs["steps"], lambda text: tell(cls, text))
        trained = train(source(model, clip, vae), method, filled, knobs, how(own, shown), shown)
        return io.NodeOutput(
            (BranchFile(trained.name, "content", 1.0),), lora_state(trained.path),
            {"loss": trained.losses}, trained.report,
        )  # fmt: skip
