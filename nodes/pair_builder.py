"""Pair Builder: content images x style images -> every contrastive pair, ready to train on."""

from __future__ import annotations

from comfy_api.latest import io

from ..comfy_adapter.page.choices import SAMPLERS, SCHEDULERS
from ..comfy_adapter.page.sockets import CATEGORY
from ..comfy_adapter.page.widgets import one, single
from ..comfy_adapter.pairs.modes import GENERATE, MIX, REFERENCES, Sources, build, check_mode
from ..comfy_adapter.pairs.pair_set import Band
from ..comfy_adapter.pairs.references import CROPS, RESIZE_METHODS, Resizing, check_template
from ..comfy_adapter.pairs.sampling import Generation, check_prompts
from ..craft_core.errors import CraftError
from ..craft_core.frequency import DOMAINS


class PairBuilder(io.ComfyNode):
    """All N x M pairs of CRAFT-LoRA's Sec. 3.3.2 (arXiv 2602.18936, Eq. 5, App. A.1)."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CRAFTPairBuilder",
            display_name="Pair Builder",
            category=CATEGORY,
            description=(
                "Pairs every content image with every style image. A pair is its two references, "
                "a frequency mix of them, or pictures sampled with low frequencies from the "
                "content and high frequencies from the style. Connect pair images and captions "
                "to Save Image-Text (to Folder) to keep them as a dataset."
            ),
            search_aliases=[
                "contrastive pairs",
                "content style pairs",
                "frequency split",
                "low pass high pass",
                "frequency guided generation",
                "style dataset",
            ],
            is_input_list=True,
            inputs=_inputs(),
            outputs=_outputs(),
        )

    @classmethod
    def validate_inputs(
        cls, mode=None, caption_template=(), content_captions=("",), style_captions=("",)
    ) -> bool | str:
        """Answer before queueing what does not depend on images. A linked text comes as None."""
        captions = {"content": content_captions, "style": style_captions}
        try:
            check_mode(one(mode["mode"], "mode") if mode else None)
            for template in caption_template:
                check_template(template or "")
            for side, texts in captions.items():
                if one(mode["mode"], "mode") == GENERATE and None not in texts:
                    check_prompts(texts, side)
        except CraftError as error:
            return str(error)
        return True

    @classmethod
    def execute(
        cls,
        content_images,
        style_images,
        mode=None,
        content_captions=(),
        style_captions=(),
        **settings,
    ) -> io.NodeOutput:
        chosen = single(mode or {})
        own = single(settings)
        name = chosen.pop("mode", None)
        built = build(
            Sources(content_images, style_images, content_captions, style_captions),
            name,
            Band(own["cutoff"], own["domain"]),
            template=own["caption_template"],
            resizing=Resizing(own["width"], own["height"], own["resize_method"], own["crop"]),
            generation=Generation(**chosen) if name == GENERATE else None,
        )
        pictures = [found for pair in built.pairs.pictures() for found in pair]
        return io.NodeOutput(
            built.pairs.content,
            built.pairs.style,
            [image for image, _ in pictures],
            [caption for _, caption in pictures],
            built.pairs.content_captions,
            built.pairs.style_captions,
            built.low,
            built.high,
            built.sheet,
            built.report,
        )


def _inputs() -> list:
    return [
        io.Image.Input(
            "content_images",
            tooltip="The N content references: one image, a batch, or a list of any sizes.",
        ),
        io.Image.Input(
            "style_images",
            tooltip="The M style references: one image, a batch, or a list of any sizes.",
        ),
        io.DynamicCombo.Input(
            "mode",
            options=[
                io.DynamicCombo.Option(REFERENCES, []),
                io.DynamicCombo.Option(MIX, []),
                io.DynamicCombo.Option(GENERATE, _generation_inputs()),
            ],
            tooltip=(
                "references: a pair is its two reference images as they are.\n"
                "frequency mix: one picture a pair, low frequencies of the content image plus "
                "high frequencies of the style image; no model needed.\n"
                "generate: pictures sampled by a model, split by frequency at every step."
            ),
        ),
        io.Float.Input(
            "cutoff",
            default=0.25,
            min=0.0,
            max=1.0,
            step=0.005,
            tooltip=(
                "Where content (below) ends and style (above) begins, as a fraction of the "
                "Nyquist frequency: of the pixels in frequency mix, of the latents in generate. "
                "Both bands are at half strength there. 0: all is style, 1: all is content. The "
                "paper gives no number. For pixels of large pictures try 0.03 to 0.1."
            ),
        ),
        io.Combo.Input(
            "domain",
            options=list(DOMAINS),
            default="dct",
            tooltip=(
                "The frequency transform. dct (the paper's example) mirrors the picture at its "
                "edges; fft wraps it around, so opposite edges influence each other."
            ),
        ),
        io.String.Input(
            "content_captions",
            multiline=True,
            default="",
            tooltip=(
                "What the content images show, a line each in their order, e.g. 'a red car'; or "
                "a list of texts. Empty for none. In generate they are the content prompts."
            ),
        ),
        io.String.Input(
            "style_captions",
            multiline=True,
            default="",
            tooltip=(
                "The styles, a line for each style image in their order, e.g. 'in the style of "
                "Van Gogh'; or a list of texts. In generate they are the style prompts."
            ),
        ),
        io.String.Input(
            "caption_template",
            default="{content}, {style}",
            dynamic_prompts=False,
            tooltip="The caption of a picture that shows both; {content}, {style} are filled in.",
        ),
        *_size_inputs(),
    ]


def _size_inputs() -> list:
    return [
        io.Int.Input(
            "width",
            default=0,
            min=0,
            max=16384,
            tooltip="Width of all pictures in pixels. 0: the first content image's.",
        ),
        io.Int.Input(
            "height",
            default=0,
            min=0,
            max=16384,
            tooltip="Height of all pictures in pixels. 0: the first content image's.",
        ),
        io.Combo.Input(
            "crop",
            options=list(CROPS),
            default="center",
            tooltip="Where an image has another shape: cut from the center, or stretched.",
        ),
        io.Combo.Input(
            "resize_method",
            options=list(RESIZE_METHODS),
            default="lanczos",
            advanced=True,
            tooltip="How images of another size are resized. Right-sized ones are left untouched.",
        ),
    ]


def _generation_inputs() -> list:
    return [
        io.Model.Input("model", tooltip="The model that samples. A routed one works too."),
        io.Clip.Input("clip", tooltip="The text encoder that reads the captions as prompts."),
        io.Vae.Input("vae", tooltip="The model's VAE, for references in and pictures out."),
        io.Boolean.Input(
            "keep_references",
            default=True,
            tooltip=(
                "On: two pictures a pair. Content fixed: low frequencies kept from the content "
                "image, the rest guided by the style prompt. Style fixed: high frequencies kept "
                "from the style image, the rest guided by the content prompt.\n"
                "Off: one picture a pair, low frequencies guided by the content prompt and high "
                "ones by the style prompt."
            ),
        ),
        io.String.Input(
            "negative_prompt",
            multiline=True,
            default="",
            placeholder="negative prompt: what to steer away from",  # else "mode.negative_prompt"
            tooltip="What to steer away from, in every picture.",
        ),
        io.Int.Input(
            "seed",
            default=0,
            min=0,
            max=0xFFFFFFFFFFFFFFFF,
            control_after_generate=True,
            tooltip="The starting noise, the same for all pairs: they differ only by conditions.",
        ),
        io.Int.Input("steps", default=20, min=1, max=10000, tooltip="Denoising steps."),
        io.Float.Input(
            "cfg",
            default=7.0,
            min=0.0,
            max=100.0,
            step=0.1,
            round=0.01,
            tooltip="Guidance scale, applied to each prompt by itself. 1: no negative prompt.",
        ),
        io.Combo.Input(
            "sampler_name",
            options=SAMPLERS,
            default="euler",
            tooltip="The host's sampler.",
        ),
        io.Combo.Input(
            "scheduler",
            options=SCHEDULERS,
            default="normal",
            tooltip="The host's noise schedule.",
        ),
        io.Float.Input(
            "denoise",
            default=1.0,
            min=0.01,
            max=1.0,
            step=0.01,
            tooltip="Below 1, sampling starts from the content image, partly noised.",
        ),
    ]


_EACH, _ONCE = True, False  # an output is a list with an item per picture, or one item
_OUTPUTS = (
    (io.Image, "content_images", _EACH, "A picture per pair to learn content from, content by "
     "content."),
    (io.Image, "style_images", _EACH, "A picture per pair to learn style from, in the same order."),
    (io.Image, "pair_images", _EACH, "Every picture of the set, to save as a dataset: pair by pair "
     "its content and its style picture, or the one where a pair is one picture."),
    (io.String, "captions", _EACH, "A caption for each of the pair images."),
    (io.String, "content_captions", _EACH, "A caption for each of the content images."),
    (io.String, "style_captions", _EACH, "A caption for each of the style images."),
    (io.Image, "low_previews", _ONCE, "The content references' low frequencies: what counts as "
     "their content."),
    (io.Image, "high_previews", _ONCE, "The style references' high frequencies, around grey: what "
     "counts as their style."),
    (io.Image, "contact_sheet", _ONCE, "A row per content, a column per style, the references "
     "along the margins."),
    (io.String, "report", _ONCE, "How many pairs, at which size and cutoff, and what was changed "
     "on the way."),
)  # fmt: skip


def _outputs() -> list:
    return [
        kind.Output(name, display_name=name.replace("_", " "), tooltip=text, is_output_list=each)
        for kind, name, each, text in _OUTPUTS
    ]
