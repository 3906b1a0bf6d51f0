"""Score one's own pictures: how near they are to the content's and to the style's references."""

from __future__ import annotations

from comfy_api.latest import io

from ..comfy_adapter.draw.score_table import ScoreRow, score_table
from ..comfy_adapter.page.sockets import CATEGORY
from ..comfy_adapter.page.widgets import encoder_input, one
from ..comfy_adapter.score.scoring import mean_text, report_text, score_pictures, scores_json
from ..comfy_adapter.score.vision import CROPS, encoders_by_role


class ContentStyleScore(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CRAFTScore",
            display_name="Content/Style Score",
            category=CATEGORY,
            is_input_list=True,
            description="Measures how near pictures are to what content and style were learned "
            "from: cosines of an encoder's features, picture by picture, their harmonic mean, and "
            "means with intervals.",
            search_aliases=["craft score", "clip score", "dino score", "similarity", "metric",
                            "evaluate lora"],
            inputs=[
                io.Image.Input("images", tooltip="The pictures to score, in their order."),
                encoder_input(
                    "clip_vision",
                    "From Load CLIP Vision: CLIP, SigLIP or DINO. Scores of different "
                    "encoders cannot be compared.",
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
                    "Looks at style instead of clip_vision. Then the scores also say what "
                    "leaked: content of the style reference, style of the content reference.",
                ),
                io.String.Input("names", optional=True, force_input=True,
                                tooltip="A name for each picture or batch, such as Method Sweep's "
                                "rows. Pictures of one name get a mean."),
                io.Combo.Input("crop", options=list(CROPS), default=CROPS[0], optional=True,
                               tooltip="For pictures that are not square. center: the middle is "
                               "looked at. none: the whole picture, squeezed."),
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
        names=(), crop=(CROPS[0],),
    ) -> io.NodeOutput:  # fmt: skip
        scores = score_pictures(
            images,
            {"content": content_reference, "style": style_reference},
            encoders_by_role(clip_vision, style_clip_vision, one(crop, "crop")),
            names,
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
