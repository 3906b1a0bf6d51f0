"""Train a rank-limited basis, and content and style LoRAs on their own layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from comfy_api.latest import io

from ..comfy_adapter.model.basis import apply_basis, load_basis
from ..comfy_adapter.model.lora_files import BranchFile
from ..comfy_adapter.page.notice import tell
from ..comfy_adapter.page.sockets import CATEGORY, Branches, LoraModel, LossMap
from ..comfy_adapter.page.widgets import knob_widgets, layer_set_menu, single, single_or_none
from ..comfy_adapter.train.basis import vgg_files
from ..comfy_adapter.train.data import check_texts
from ..comfy_adapter.train.precision import AUTO, CHOICES
from ..comfy_adapter.train.run import PageWatch
from ..comfy_adapter.train.start import train
from ..comfy_adapter.train.train import (
    Captioned,
    Filled,
    How,
    Source,
    lora_state,
)
from ..comfy_adapter.use.router import layer_set_text
from ..craft_core.training import TRAINING
from ..craft_core.types import ROLES

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
                io.Image.Input("content_images", tooltip="A picture a pair to learn content from, "
                               "from the Pair Builder or Load Image."),
                io.Image.Input("style_images", tooltip="A picture a pair to learn style from, in "
                               "the same order."),
                captions_input("content_captions", "a photo of a dog"),
                captions_input("style_captions", "a house in watercolor style"),
                save_name("craft/basis", "output/craft_bases"),
                io.Combo.Input(
                    "vgg", options=vgg_files(),
                    tooltip="A VGG-19 safetensors file in models/vgg for the perceptual term; "
                    "none trains without it.",
                ),
                *knob_widgets(TRAINING["basis"]),
                *how_inputs(),
            ],
            outputs=[
                io.Model.Output("limited_model", display_name="model",
                                tooltip="The model with both subspaces projected out."),
                LossMap.Output("loss_map", tooltip="For the host's Plot Loss Graph."),
                io.String.Output("report", tooltip="The saved file, the losses, the settings."),
            ],
        )  # fmt: skip

    @classmethod
    def validate_inputs(cls, save_name=(None,), content_captions=(None,), style_captions=(None,)):
        captions = {"content": content_captions, "style": style_captions}
        return check_texts(single_or_none(save_name), captions)

    @classmethod
    def execute(
        cls, model, clip, vae, content_images, style_images, content_captions, style_captions,
        **settings,
    ) -> io.NodeOutput:  # fmt: skip
        own = single(settings)
        shown = watch(cls, own)
        pictures = {
            "content": Captioned(content_images, content_captions),
            "style": Captioned(style_images, style_captions),
        }
        trained = train(
            source(model, clip, vae), TRAINING["basis"], Filled(pictures, (), {"vgg": own["vgg"]}),
            knobs("basis", own), how(own, shown), shown,
        )  # fmt: skip
        limited = apply_basis(model[0], load_basis(trained.name))
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
                io.Image.Input("images", tooltip="What to learn: one image is enough."),
                captions_input("captions", "a photo of sks dog"),
                io.Combo.Input("role", options=list(ROLES),
                               tooltip="content learns on the content layers, style on the "
                               "style layers."),
                layer_set_menu("layer_sets", auto=False),
                save_name("craft/lora", "output/loras"),
                *knob_widgets(TRAINING["lora"]),
                *how_inputs(),
                io.Image.Input("prior_images", optional=True,
                               tooltip="Pictures to stay as they are (prior preservation), such as "
                               "other dogs made by the model itself."),
                io.String.Input("prior_captions", multiline=True, default="", optional=True,
                                tooltip="A caption for each prior image, or one for all."),
                Branches.Input("branches", optional=True, tooltip="Branches to add this one to."),
            ],
            outputs=[
                Branches.Output("branches_out", display_name="branches",
                                tooltip="For the Router's extra_branches."),
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
        cls, model, clip, vae, images, captions, prior_images=(), prior_captions=(),
        **settings,
    ) -> io.NodeOutput:  # fmt: skip
        own = single(settings)
        role, branches = own["role"], own.pop("branches", None) or ()
        shown = watch(cls, own)
        pictures = {"images": Captioned(images, captions)}
        if prior_images:
            pictures["prior"] = Captioned(prior_images, prior_captions)
        choices = {"role": role, "layer_sets": layer_set_text(own["layer_sets"])}
        trained = train(
            source(model, clip, vae), TRAINING["lora"], Filled(pictures, (), choices),
            knobs("lora", own), how(own, shown), shown,
        )  # fmt: skip
        branch = BranchFile(trained.name, role, 1.0)
        return io.NodeOutput(
            (*branches, branch), lora_state(trained.path), {"loss": trained.losses}, trained.report
        )


def answer(save_name: Sequence, captions: Sequence, layer_sets: Any) -> bool | str:
    """What validate_inputs says of a training on layer sets, before it is queued.

    layer_sets: the host hands over the menu, asked for or not; None: it has no such entry.
    """
    if layer_sets is None:
        return "layer_sets: choose an entry of the menu."
    return check_texts(single_or_none(save_name), {"training": captions})


def source_inputs() -> list[io.Input]:
    return [
        io.Model.Input("model", tooltip="The model to train on; it is not changed. For LoRAs best "
                       "the rank-limited one."),
        io.Clip.Input("clip", tooltip="Encodes the captions."),
        io.Vae.Input("vae", tooltip="Encodes the pictures."),
    ]  # fmt: skip


def captions_input(name: str, example: str) -> io.Input:
    return io.String.Input(
        name, multiline=True, default="", placeholder=example, dynamic_prompts=False,
        tooltip="What the pictures show: a line for each, one line for all, or a list of texts. "
        f"For example '{example}'. <c> and <s> may mark phrases; they are not learned.",
    )  # fmt: skip


def save_name(default: str, folder: str) -> io.Input:
    return io.String.Input(
        "save_name", default=default,
        tooltip=f"Name in {folder}; counted up, never over an existing file.",
    )  # fmt: skip


def how_inputs() -> list[io.Input]:
    return [
        io.Combo.Input(
            "precision", options=list(CHOICES), default=AUTO, advanced=True,
            tooltip="What the model computes in. auto: bf16 where the device has units for it, "
            "else fp32; a training that resumes goes on as it began. bf16 needs half the memory "
            "of fp32, and is many times slower on a device without units for it.",
        ),
        io.Boolean.Input(
            "gradient_checkpointing", default=True, advanced=True,
            tooltip="Keep less for the backward pass and compute it again: slower, much less "
            "memory, the same result.",
        ),
        io.Boolean.Input(
            "resume", default=False,
            tooltip="Go on from where a training of this name was stopped, or towards more steps. "
            "Off: begin afresh.",
        ),
    ]  # fmt: skip


def source(model: list, clip: list, vae: list) -> Source:
    given = single({"model": model, "clip": clip, "vae": vae})
    return Source(**given)


def knobs(recipe: str, own: dict[str, Any]) -> dict[str, Any]:
    return {p.name: own[p.name] for p in TRAINING[recipe].parameters}


def how(own: dict[str, Any], shown: PageWatch) -> How:
    return How(
        own["save_name"], own["resume"], own["precision"], own["gradient_checkpointing"],
        shown.warn,
    )  # fmt: skip


def watch(node: type[io.ComfyNode], own: dict[str, Any]) -> PageWatch:
    return PageWatch(own["steps"], lambda text: tell(node, text))
