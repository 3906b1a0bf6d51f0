"""Score one's own pictures against the content's and the style's references and against their
prompts, load the encoders of style and of prompts, and find the settings that score best."""

from __future__ import annotations

from functools import partial

from comfy_api.latest import io

from ..comfy_adapter.draw.score_table import ScoreRow, score_table
from ..comfy_adapter.model.lora_files import lora_stamps
from ..comfy_adapter.model.stamps import stamp
from ..comfy_adapter.page.choices import SAMPLERS, SCHEDULERS
from ..comfy_adapter.page.notice import tell, warn
from ..comfy_adapter.page.pair import pair_inputs
from ..comfy_adapter.page.sockets import CATEGORY, PictureEncoderSocket, TextEncoderSocket
from ..comfy_adapter.page.widgets import encoder_input, layer_set_menu, one
from ..comfy_adapter.score.csd import FOLDER as CSD_FOLDER
from ..comfy_adapter.score.csd import csd_files, csd_path, load_csd, require_csd
from ..comfy_adapter.score.pair_scorer import PairScorer
from ..comfy_adapter.score.prompts import prompt_look
from ..comfy_adapter.score.scoring import mean_text, report_text, score_pictures, scores_json
from ..comfy_adapter.score.text_encoder import FOLDERS as TEXT_FOLDERS
from ..comfy_adapter.score.text_encoder import (
    load_text_encoder,
    require_text_encoder,
    text_encoder_files,
    text_encoder_path,
    text_encoder_stamp,
)
from ..comfy_adapter.score.vision import CROPS, encoders_by_role
from ..comfy_adapter.use.find_best import SearchRequest, find_best
from ..comfy_adapter.use.router import RouterRequest, check_request, layer_set_text
from ..comfy_adapter.use.sampling import Sampling
from ..craft_core.errors import CraftError
from ..craft_core.guidance import GUIDANCE
from ..craft_core.routing.presets import OF_MODEL
from ..craft_core.search import LEAST_BUDGET, Setting, settings_of
from ..craft_core.starting import FLOOR, FULL_STRENGTH, GUIDED_CFG, GUIDED_STRENGTH

NO_FILES = f"(none in models/{CSD_FOLDER})"
NO_TEXT_FILES = f"(none in models/{TEXT_FOLDERS[0]} and models/{TEXT_FOLDERS[1]})"
_METHODS = "craft\ndirect\nk_lora\nnp_lora"
_GUIDANCES = "acfg\ncfg\nrole: weight = 1.5"
_STRENGTHS = f"{GUIDED_STRENGTH:g}, {FULL_STRENGTH:g}, 0.5"
_SCHEDULES = f"constant\ncosine: content_floor = {FLOOR:g}, style_floor = {FLOOR:g}"


class ContentStyleScore(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CRAFTScore",
            display_name="Content/Style Score",
            category=CATEGORY,
            is_input_list=True,
            description="Measures how near pictures are to what content and style were learned "
            "from, and to their prompt: cosines of an encoder's features, picture by picture, the "
            "harmonic mean of content and style, and means with intervals.",
            search_aliases=["craft score", "clip score", "clip-t", "prompt score", "dino score",
                            "similarity", "metric", "evaluate lora"],
            inputs=[
                io.Image.Input("images", tooltip="The pictures to score, in their order."),
                encoder_input(
                    "clip_vision",
                    "From Load CLIP Vision (CLIP, SigLIP or DINO) or Load CSD. Scores of "
                    "different encoders cannot be compared.",
                    optional=False,
                ),
                io.Image.Input("content_reference", optional=True,
                               tooltip="What content was learned from; several pictures count "
                               "equally."),
                io.Image.Input("style_reference", optional=True,
                               tooltip="What style was learned from; several pictures count "
                               "equally."),
                encoder_input(
                    "style_clip_vision",
                    "Looks at style instead of clip_vision, as Load CSD's style. Then the scores "
                    "also say what leaked: content of the style reference, style of the content "
                    "reference.",
                ),
                io.String.Input("names", optional=True, force_input=True,
                                tooltip="A name for each picture or batch, such as Method Sweep's "
                                "rows. Pictures of one name get a mean."),
                io.Combo.Input("crop", options=list(CROPS), default=CROPS[0], optional=True,
                               tooltip="For pictures that are not square. center: the middle is "
                               "looked at. none: the whole picture, squeezed. CSD always looks at "
                               "the middle."),
                TextEncoderSocket.Input(
                    "text_encoder", optional=True,
                    tooltip="From Load CLIP Text Encoder for Scores, of the same CLIP as "
                    "clip_vision. With prompt, text says how near pictures are to their words.",
                ),
                io.String.Input("prompt", optional=True, force_input=True,
                                tooltip="What the pictures were asked for: one prompt for all, one "
                                "for each batch or for each picture. Markers <c> and <s> do not "
                                "count."),
            ],
            outputs=[
                io.String.Output("report", tooltip="Encoders, scores of every picture, means with "
                                 "95 % intervals."),
                io.Image.Output("table", tooltip="The scores beside their pictures."),
                io.String.Output("json", tooltip="The same for programs: all digits, encoders, "
                                 "intervals."),
            ],
        )  # fmt: skip

    @classmethod
    def execute(
        cls, images, clip_vision, content_reference=(), style_reference=(), style_clip_vision=(),
        names=(), crop=(CROPS[0],), text_encoder=(), prompt=(),
    ) -> io.NodeOutput:  # fmt: skip
        encoders = encoders_by_role(clip_vision, style_clip_vision, one(crop, "crop"))
        text = one(text_encoder, "text_encoder") if text_encoder else None
        scores = score_pictures(
            images,
            {"content": content_reference, "style": style_reference},
            encoders,
            names,
            prompt_look(text, prompt, encoders["content"]),
        )
        pictures = [batch[place : place + 1] for batch in images for place in range(len(batch))]
        measures = list(scores.columns)
        rows = [
            ScoreRow(title, picture, [f"{scores.columns[name][place]:.3f}" for name in measures])
            for place, (title, picture) in enumerate(zip(scores.names, pictures, strict=True))
        ]
        means = [
            ScoreRow(name, None, [mean_text(score).replace(" [", "\n[") for score in found])
            for name, found in scores.means.items()
        ]
        table = score_table(measures, rows, means)
        return io.NodeOutput(report_text(scores), table, scores_json(scores))


class LoadCSD(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CRAFTLoadCSD",
            display_name="Load CSD",
            category=CATEGORY,
            description="CSD (Contrastive Style Descriptors), an encoder made for style: it is "
            "meant to tell how a picture is drawn, whatever it shows. For the nodes that score "
            "pictures.",
            search_aliases=["craft csd", "style encoder", "style similarity", "style descriptor"],
            inputs=[
                io.Combo.Input(
                    "csd", options=csd_files() or [NO_FILES],
                    tooltip="A file of models/clip_vision: CSD's release (ViT-L) or a safetensors "
                    "conversion of it.",
                ),
            ],
            outputs=[
                PictureEncoderSocket.Output(
                    "style", tooltip="For style_clip_vision, beside another encoder in "
                    "clip_vision.",
                ),
                PictureEncoderSocket.Output(
                    "content", tooltip="By CSD's second matrix, which the release's own "
                    "evaluation does not use.",
                ),
            ],
        )  # fmt: skip

    @classmethod
    def validate_inputs(cls, csd: str | None = None) -> bool | str:
        if csd is None:  # linked
            return True
        try:
            require_csd(csd)
        except CraftError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, csd: str | None = None) -> str:
        return stamp(CSD_FOLDER, csd)

    @classmethod
    def execute(cls, csd: str) -> io.NodeOutput:
        loaded = load_csd(csd_path(csd))
        return io.NodeOutput(loaded["style"], loaded["content"])


class LoadTextEncoder(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CRAFTLoadTextEncoder",
            display_name="Load CLIP Text Encoder for Scores",
            category=CATEGORY,
            description="The text tower of a whole CLIP, with the projection that makes its "
            "vectors comparable to those of pictures. For Content/Style Score's likeness to the "
            "prompt; a CLIP that prompts are sampled with often lacks it.",
            search_aliases=["craft text encoder", "clip score", "clip-t", "prompt score",
                            "text projection"],
            inputs=[
                io.Combo.Input(
                    "text_encoder", options=text_encoder_files() or [NO_TEXT_FILES],
                    tooltip="A safetensors file of models/text_encoders or models/clip_vision with "
                    "CLIP's text tower and its text_projection, such as OpenAI's "
                    "clip-vit-large-patch14.",
                ),
            ],
            outputs=[
                TextEncoderSocket.Output(
                    "encoder", display_name="text_encoder",
                    tooltip="For Content/Style Score, whose clip_vision is the same CLIP.",
                ),
            ],
        )  # fmt: skip

    @classmethod
    def validate_inputs(cls, text_encoder: str | None = None) -> bool | str:
        if text_encoder is None:  # linked
            return True
        try:
            require_text_encoder(text_encoder)
        except CraftError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, text_encoder: str | None = None) -> str:
        return text_encoder_stamp(text_encoder)

    @classmethod
    def execute(cls, text_encoder: str) -> io.NodeOutput:
        return io.NodeOutput(load_text_encoder(text_encoder_path(text_encoder)))


class FindBest(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CRAFTFindBest",
            display_name="Find Best Settings",
            category=CATEGORY,
            hidden=[io.Hidden.unique_id],
            description="Searches fusion method, strengths, guidance and schedule for one pair of "
            "LoRAs: many settings get few pictures, the better half of them more. The model comes "
            "out routed by the best. Press Run again after a stop, and it goes on.",
            search_aliases=["craft search", "tune lora", "optimise strength", "hyperparameter",
                            "successive halving", "pareto"],
            inputs=[
                io.Model.Input("model", tooltip="The backbone the LoRAs act on."),
                io.Clip.Input("clip", tooltip="Encodes the prompt without its markers."),
                io.Vae.Input("vae", tooltip="Decodes the pictures that are scored."),
                io.Conditioning.Input("negative", tooltip="For sampling, as for ACFG KSampler."),
                io.Latent.Input("latent_image", tooltip="An empty one of the size of a picture."),
                encoder_input(
                    "clip_vision", "From Load CLIP Vision: looks at the pictures and the "
                    "references, as in Content/Style Score.", optional=False,
                ),
                io.Image.Input("content_reference", tooltip="What content was learned from."),
                io.Image.Input("style_reference", tooltip="What style was learned from."),
                io.String.Input(
                    "prompt", multiline=True, dynamic_prompts=True,
                    default="A photo of <c>sks dog</c> in <s>watercolor style</s>",
                    tooltip="Phrases marked as for the Content/Style LoRA Router.",
                ),
                *pair_inputs("", "", FULL_STRENGTH)[:2],
                layer_set_menu("layer_sets"),
                io.Int.Input("budget", default=64, min=LEAST_BUDGET, max=100000,
                             tooltip="Pictures to make, at most, and one of each guidance rule to "
                             "check that the model is the same where a search goes on."),
                io.Float.Input(
                    "content_weight", default=0.5, min=0.0, max=1.0, step=0.05,
                    tooltip="How much content counts against style in the harmonic mean: 1 is "
                    "content alone, 0 is style alone.",
                ),
                io.String.Input(
                    "methods", multiline=True, default=_METHODS, dynamic_prompts=False,
                    tooltip="One a line, as in Method Sweep. The first entries of the four lists "
                    "together are the setting that the best is compared with.",
                ),
                io.String.Input(
                    "guidances", multiline=True, default=_GUIDANCES, dynamic_prompts=False,
                    tooltip="One a line: acfg, cfg, or a rule with its settings, 'role: weight = "
                    "1.5'. A method that names its guidance keeps that one.",
                ),
                io.String.Input("strengths", default=_STRENGTHS,
                                tooltip="Numbers with commas, each for content with each for "
                                "style."),
                io.String.Input(
                    "schedules", multiline=True, default=_SCHEDULES, dynamic_prompts=False,
                    tooltip="Shapes of Timestep Schedule, with commas; one with settings on a line "
                    "of its own: 'cosine: content_floor = 0.5'.",
                ),
                io.Int.Input("first_seed", default=0, min=0, max=0xFFFFFFFFFFFFFFFF,
                             control_after_generate=io.ControlAfterGenerate.fixed,
                             tooltip="The next pictures count up, the same for all settings. It "
                             "decides which settings enter, too."),
                io.Int.Input("steps", default=20, min=1, max=10000, tooltip="Of each picture."),
                io.Float.Input("cfg", default=GUIDED_CFG, min=0.0, max=100.0, step=0.1, round=0.01,
                               tooltip="Guidance scale of all settings."),
                io.Combo.Input("sampler_name", options=SAMPLERS, default="euler",
                               tooltip="The algorithm of sampling."),
                io.Combo.Input("scheduler", options=SCHEDULERS, default="normal",
                               tooltip="How noise is spread over the steps."),
                encoder_input("style_clip_vision", "Looks at style instead of clip_vision."),
                io.Boolean.Input(
                    "allow_unmatched", default=False, optional=True, advanced=True,
                    tooltip="On: LoRA keys or layer patterns that match nothing are ignored.",
                ),
            ],
            outputs=[
                io.Model.Output("best_model", display_name="model",
                                tooltip="Routed by the best setting, under its guidance."),
                io.Conditioning.Output("positive", tooltip="The prompt without markers."),
                io.Boolean.Output("asymmetric", tooltip="For ACFG KSampler's asymmetric."),
                io.Image.Output("plot", tooltip="Content against style: the settings that were "
                                "tried, the frontier, and a ring around the best."),
                io.String.Output("preset", tooltip="The best setting and the frontier's, with "
                                 "scores, as JSON."),
                io.String.Output("report", tooltip="What was found, and how sure it is."),
            ],
        )  # fmt: skip

    @classmethod
    def validate_inputs(
        cls, prompt=None, methods=None, guidances=None, strengths=None, schedules=None, *,
        layer_sets=None,
    ):  # fmt: skip
        lists = (methods, guidances, strengths, schedules)
        try:
            if None not in lists:
                _settings(*lists)
        except CraftError as error:
            return str(error)
        return check_request(prompt, layer_sets, {})

    @classmethod
    def fingerprint_inputs(cls, content_lora=None, style_lora=None, **others) -> str:
        return lora_stamps(content_lora, style_lora)

    @classmethod
    def execute(
        cls, model, clip, vae, negative, latent_image, clip_vision, content_reference,
        style_reference, prompt, content_lora, style_lora, layer_sets, budget, content_weight,
        methods, guidances, strengths, schedules, first_seed, steps, cfg, sampler_name, scheduler,
        style_clip_vision=None, allow_unmatched=False,
    ) -> io.NodeOutput:  # fmt: skip
        encoders = encoders_by_role([clip_vision], [style_clip_vision])
        references = {"content": [content_reference], "style": [style_reference]}
        routing = RouterRequest(
            prompt, (), layer_set_text(layer_sets), {}, allow_unmatched=allow_unmatched
        )
        settings = _settings(methods, guidances, strengths, schedules)
        request = SearchRequest(
            (content_lora, style_lora), routing, settings,
            Sampling(negative, latent_image, vae, steps, cfg, sampler_name, scheduler),
            PairScorer.of(references, encoders), content_weight, first_seed, budget,
        )  # fmt: skip
        found = find_best(model, clip, request, partial(tell, cls))
        warn(cls, *found.warnings)
        tell(cls, "\n".join([*found.warnings, found.report]), found.preset)
        return io.NodeOutput(
            found.model, found.conditioning, found.asymmetric, found.plot, found.preset,
            found.report,
        )  # fmt: skip


def _settings(methods: str, guidances: str, strengths: str, schedules: str) -> tuple[Setting, ...]:
    return settings_of(methods, guidances, strengths, schedules, ("auto", *OF_MODEL), GUIDANCE)
