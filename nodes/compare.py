"""Compare settings on one's own pair: a sweep of models, a labelled grid, and both in one node."""

from __future__ import annotations

from base64 import b64encode
from io import BytesIO
from itertools import product
from json import dumps
from typing import Any

from comfy_api.latest import io

from ..comfy_adapter.draw.comparison import in_a_row, labelled, shown_pictures
from ..comfy_adapter.draw.runs import logged, runs_sheet
from ..comfy_adapter.draw.score_plot import score_plot
from ..comfy_adapter.model.lora_files import lora_stamps
from ..comfy_adapter.page.choices import SAMPLERS, SCHEDULERS
from ..comfy_adapter.page.notice import tell, warn
from ..comfy_adapter.page.pair import pair_inputs
from ..comfy_adapter.page.sockets import (
    CATEGORY,
    BranchesSocket,
    EncoderSocket,
    LoraStackSocket,
    ScheduleSocket,
)
from ..comfy_adapter.page.whole_sigmas import given_sigmas, whole_sigmas_input
from ..comfy_adapter.page.widgets import (
    chosen,
    encoder_input,
    layer_set_menu,
    method_menu,
    one,
)
from ..comfy_adapter.score.scoring import lines_by_group
from ..comfy_adapter.use.router import RouterRequest, check_request, layer_set_text, with_own_loras
from ..comfy_adapter.use.sampling import Sampling
from ..comfy_adapter.use.scored_grid import AS_GIVEN, ORDERS, Judges, check_order, scored_grid
from ..comfy_adapter.use.shown_grid import ShownGrid
from ..comfy_adapter.use.sweep import (
    SweepGuidance,
    guidance_scales,
    method_lines,
    sweep,
    under_line,
)
from ..comfy_adapter.use.xy_grid import GridRequest, MadeCell, fill_grid
from ..craft_core.errors import CraftError
from ..craft_core.fusion import FUSION
from ..craft_core.guidance import GUIDANCE
from ..craft_core.routing.presets import OF_MODEL
from ..craft_core.search import KINDS, MOST_CELLS, Grid, GridSetting, grid_of
from ..craft_core.starting import GUIDED_CFG, GUIDED_STRENGTH

_METHODS = "\n".join(FUSION.keys())
_PLOT = "content against style"
_NO_PLOT = "connect clip_vision and both references to see content against style"
_X = "strength: 0.4, 0.7, 1"
_Y = "method\ncraft\ndirect\nk_lora"
_ON_NODE = 160  # longest edge of a picture on the node, in pixels


class MethodSweep(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        lines = [f"{method.key}: {method.summary}" for method in FUSION]
        return io.Schema(
            node_id="CRAFTMethodSweep",
            display_name="Method Sweep",
            category=CATEGORY,
            hidden=[io.Hidden.unique_id, io.Hidden.prompt],
            not_idempotent=True,  # the models of an equal sweep elsewhere log their own runs
            description="Routes one pair of LoRAs by several fusion methods, each with several "
            "seeds. Everything after it runs once for each: connect model, positive, seed and "
            "asymmetric to ACFG KSampler, and model, rows and columns to Comparison Grid.",
            search_aliases=["craft compare", "xy plot", "lora grid", "method comparison"],
            inputs=[
                io.Model.Input("model", tooltip="The backbone the LoRAs act on."),
                io.Clip.Input("clip", tooltip="Encodes the prompt without its markers."),
                io.String.Input(
                    "prompt", multiline=True, dynamic_prompts=True,
                    default="A photo of <c>sks dog</c> in <s>watercolor style</s>",
                    tooltip="Phrases marked as for the Content/Style LoRA Router.",
                ),
                *pair_inputs(
                    "Dial of content, the same for every method.",
                    "Dial of style, the same for every method.",
                    GUIDED_STRENGTH,
                ),
                layer_set_menu("layer_sets"),
                io.String.Input(
                    "methods", multiline=True, default=_METHODS, dynamic_prompts=False,
                    tooltip="\n".join([
                        "One method a line, its settings after a colon: 'k_lora: pattern = s*'. "
                        "Every method has guidance (acfg, cfg, or a rule with its settings: "
                        "'direct: guidance = role, weight = 1.5') and most layer_sets (a preset).",
                        *lines,
                    ]),
                ),
                io.Int.Input("first_seed", default=0, min=0, max=0xFFFFFFFFFFFFFFFF,
                             control_after_generate=io.ControlAfterGenerate.fixed,
                             tooltip="Of the first column; the next columns count up."),
                io.Int.Input("seeds", default=2, min=1, max=64, tooltip="Columns of the grid."),
                io.Int.Input("steps", default=20, min=1, max=10000,
                             tooltip="Of the run that the planned map is drawn for."),
                io.Boolean.Input(
                    "asymmetric", default=True, label_on="ACFG", label_off="standard CFG",
                    tooltip="Guidance of the lines that name none.",
                ),
                ScheduleSocket.Input(
                    "schedule", optional=True, tooltip="Strength over time, for all."
                ),
                BranchesSocket.Input(
                    "extra_branches", optional=True,
                    tooltip="Further contents or styles, from LoRA List or Load LoRA Branch.",
                ),
                LoraStackSocket.Input("lora_stack", optional=True,
                                      tooltip="Ordinary LoRAs to apply to the backbone itself."),
                io.Boolean.Input(
                    "allow_unmatched", default=False, optional=True, advanced=True,
                    tooltip="On: LoRA keys or layer patterns that match nothing are ignored.",
                ),
                EncoderSocket.Input(
                    "expert_encoder", optional=True, tooltip="From Load Expert Encoder."
                ),
                whole_sigmas_input(),
                io.String.Input(
                    "cfgs", default=f"{GUIDED_CFG:g}", optional=True,
                    tooltip="For the output cfg: guidance scales with commas between them, a "
                    "column for each with each seed. Connect cfg to ACFG KSampler's cfg.",
                ),
            ],
            outputs=[
                io.Model.Output("models", display_name="model", is_output_list=True,
                                tooltip="For ACFG KSampler: a routed model for each picture. "
                                "Comparison Grid draws from it who acted."),
                io.Conditioning.Output("positive", is_output_list=True,
                                       tooltip="The prompt without markers."),
                io.Int.Output("seed", is_output_list=True, tooltip="For ACFG KSampler's seed."),
                io.Boolean.Output("guidance", display_name="asymmetric", is_output_list=True,
                                  tooltip="For ACFG KSampler's asymmetric."),
                io.String.Output("rows", is_output_list=True, tooltip="For Comparison Grid."),
                io.String.Output("columns", is_output_list=True, tooltip="For Comparison Grid."),
                io.Image.Output("activity", tooltip="Who is to act in which layer at which step, "
                                "made before sampling. Comparison Grid shows who acted."),
                io.String.Output("report", tooltip="The Router's report of every method."),
                io.Float.Output("scale", display_name="cfg", is_output_list=True,
                                tooltip="For ACFG KSampler's cfg, from cfgs."),
            ],
        )  # fmt: skip

    @classmethod
    def validate_inputs(cls, prompt=None, methods=None, cfgs=None, *, layer_sets=None):
        try:
            if methods is not None:
                method_lines(methods)
            if cfgs is not None:
                guidance_scales(cfgs)
        except CraftError as error:
            return str(error)
        return check_request(prompt, layer_sets, {})

    @classmethod
    def fingerprint_inputs(cls, content_lora=None, style_lora=None, **others) -> str:
        return lora_stamps(content_lora, style_lora)

    @classmethod
    def execute(
        cls, model, clip, prompt, content_lora, style_lora, content_strength, style_strength,
        layer_sets, methods, first_seed, seeds, steps, asymmetric, schedule=None,
        extra_branches=(), lora_stack=(), allow_unmatched=False, expert_encoder="",
        whole_sigmas=None, cfgs="4",
    ) -> io.NodeOutput:  # fmt: skip
        scales = guidance_scales(cfgs)
        branches = with_own_loras(
            (content_lora, style_lora), (content_strength, style_strength), extra_branches
        )
        request = RouterRequest(
            prompt, branches, layer_set_text(layer_sets), {}, schedule, allow_unmatched,
            expert_encoder or "", given_sigmas(whole_sigmas),
        )  # fmt: skip
        guidance = SweepGuidance(asymmetric, scales if _gives_cfg(cls.hidden) else ())
        found = sweep(model, clip, methods, request, steps, lora_stack or (), guidance)
        warn(cls, *found.warnings)
        cells = []
        for line, routed in zip(found.lines, found.routed, strict=True):
            # The rule is on the MODEL too, for samplers that do not ask.
            model, switch = under_line(routed.model, line, asymmetric)
            model = logged(model, line.label, cls.hidden and cls.hidden.unique_id)
            for scale, column in product(scales, range(seeds)):
                seed = (first_seed + column) % (1 << 64)
                said = f"cfg {scale:g}, " if len(scales) > 1 else ""
                cells.append((model, routed.conditioning, seed, switch, line.label,
                              f"{said}seed {seed}", scale))  # fmt: skip
        models, positives, numbers, switches, rows, columns, each_scale = (
            list(each) for each in zip(*cells, strict=True)
        )
        return io.NodeOutput(
            models, positives, numbers, switches, rows, columns, found.sheet, found.report,
            each_scale,
        )  # fmt: skip


class ComparisonGrid(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CRAFTComparisonGrid",
            display_name="Comparison Grid",
            category=CATEGORY,
            is_input_list=True,
            description="Puts the pictures of a sweep into one labelled picture: a row for each "
            "method, a column for each seed. Shows too which LoRA acted where and when.",
            search_aliases=["craft compare", "xy plot", "image grid", "contact sheet"],
            inputs=[
                io.Image.Input("images", tooltip="The sweep's pictures, from VAE Decode."),
                io.String.Input("rows", force_input=True, tooltip="A row label for each image."),
                io.String.Input("columns", force_input=True,
                                tooltip="A column label for each image."),
                io.Int.Input("cell", default=256, min=0, max=4096,
                             tooltip="Longest edge of a picture, in pixels; 0: as it is."),
                io.Image.Input("content_reference", optional=True,
                               tooltip="What content was trained on, shown above the grid."),
                io.Image.Input("style_reference", optional=True,
                               tooltip="What style was trained on, shown above the grid."),
                io.Model.Input("models", optional=True,
                               tooltip="Method Sweep's model, for the map of who acted."),
                encoder_input(
                    "clip_vision",
                    "From Load CLIP Vision: scores every picture against the references, as "
                    "Content/Style Score does.",
                ),
                encoder_input("style_clip_vision", "Looks at style instead of clip_vision."),
                io.Combo.Input("sort_by", options=ORDERS, default=AS_GIVEN,
                               optional=True, tooltip="The order of the rows: as they come, or "
                               "the best score first."),
            ],
            outputs=[
                io.Image.Output("grid", tooltip="For Preview Image or Save Image."),
                io.Image.Output("acted", display_name="activity",
                                tooltip="Who acted in which layer at which step, drawn from the "
                                "runs of the models. Without models: empty."),
                io.String.Output("scores", tooltip="Every picture's scores and a mean for each "
                                 "row. Without clip_vision: empty."),
                io.Image.Output("plot", tooltip="Content against style, a point for each row with "
                                "its 95 % intervals, and the frontier: the rows that no other "
                                "beats at both."),
            ],
        )  # fmt: skip

    @classmethod
    def execute(
        cls, images, rows, columns, cell, content_reference=(), style_reference=(), models=(),
        clip_vision=(), style_clip_vision=(), sort_by=(AS_GIVEN,),
    ) -> io.NodeOutput:  # fmt: skip
        references = {"content": content_reference, "style": style_reference}
        judges = Judges(references, clip_vision, style_clip_vision)
        cells = labelled(images, rows, columns)
        found = scored_grid(cells, one(cell, "cell"), judges, one(sort_by, "sort_by"))
        plot = score_plot(found.points, _PLOT if found.points else _NO_PLOT)
        return io.NodeOutput(found.grid, runs_sheet(models), found.report, plot)


class XYGrid(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CRAFTXYGrid",
            display_name="XY Grid",
            category=CATEGORY,
            hidden=[io.Hidden.unique_id, io.Hidden.extra_pnginfo],
            is_output_node=True,
            description="Makes a picture for every pair of values of two axes: methods with their "
            "settings, strengths, guidance, cfg, seeds, layer sets, schedules. The node shows each "
            "cell when it is made; click one to set the Router to it. Press Run again after a "
            "stop, and it goes on.",
            search_aliases=["xy plot", "x/y plot", "xyz plot", "craft compare", "lora grid",
                            "image grid", "strength comparison"],
            inputs=[
                io.Model.Input("model", tooltip="The backbone the LoRAs act on."),
                io.Clip.Input("clip", tooltip="Encodes the prompt without its markers."),
                io.Vae.Input("vae", tooltip="Decodes the pictures."),
                io.Conditioning.Input("negative", tooltip="For sampling, as for ACFG KSampler."),
                io.Latent.Input("latent_image", tooltip="An empty one of the size of a picture."),
                io.String.Input(
                    "prompt", multiline=True, dynamic_prompts=True,
                    default="A photo of <c>sks dog</c> in <s>watercolor style</s>",
                    tooltip="Phrases marked as for the Content/Style LoRA Router.",
                ),
                io.String.Input(
                    "x_axis", multiline=True, default=_X, dynamic_prompts=False,
                    tooltip="The columns: what differs, a colon and values with commas or a line "
                    f"each. It can be {', '.join(KINDS)}. Values with settings are as in Method "
                    f"Sweep: 'role: weight = 1.5'. A grid has at most {MOST_CELLS} cells.",
                ),
                io.String.Input(
                    "y_axis", multiline=True, default=_Y, dynamic_prompts=False,
                    tooltip="The rows, written as x_axis. Empty: one row.",
                ),
                *pair_inputs(
                    "Dial of content, where no axis sets it.",
                    "Dial of style, where no axis sets it.",
                    GUIDED_STRENGTH,
                ),
                layer_set_menu("layer_sets"),
                method_menu("method", FUSION, "How the branches are combined, where no axis says."),
                method_menu(
                    "guidance", GUIDANCE,
                    "How the predictions of a step are combined, where no axis says.",
                ),
                io.Int.Input("seed", default=0, min=0, max=0xFFFFFFFFFFFFFFFF,
                             control_after_generate=io.ControlAfterGenerate.fixed,
                             tooltip="Of every cell, where no axis sets it."),
                io.Int.Input("steps", default=20, min=1, max=10000, tooltip="Of each picture."),
                io.Float.Input("cfg", default=GUIDED_CFG, min=0.0, max=100.0, step=0.1, round=0.01,
                               tooltip="Guidance scale, where no axis sets it."),
                io.Combo.Input("sampler_name", options=SAMPLERS, default="euler",
                               tooltip="The algorithm of sampling."),
                io.Combo.Input("scheduler", options=SCHEDULERS, default="normal",
                               tooltip="How noise is spread over the steps."),
                io.Int.Input("cell", default=256, min=0, max=4096,
                             tooltip="Longest edge of a picture, in pixels; 0: as it is."),
                ScheduleSocket.Input("schedule", optional=True,
                                     tooltip="Strength over time, where no axis sets it."),
                BranchesSocket.Input(
                    "extra_branches", optional=True,
                    tooltip="Further contents or styles, from LoRA List or Load LoRA Branch.",
                ),
                LoraStackSocket.Input("lora_stack", optional=True,
                                      tooltip="Ordinary LoRAs to apply to the backbone itself."),
                EncoderSocket.Input(
                    "expert_encoder", optional=True, tooltip="From Load Expert Encoder."
                ),
                encoder_input(
                    "clip_vision",
                    "From Load CLIP Vision: scores every picture against the references, as "
                    "Content/Style Score does.",
                ),
                encoder_input("style_clip_vision", "Looks at style instead of clip_vision."),
                io.Image.Input("content_reference", optional=True,
                               tooltip="What content was trained on, shown above the grid."),
                io.Image.Input("style_reference", optional=True,
                               tooltip="What style was trained on, shown above the grid."),
                io.Combo.Input("sort_by", options=ORDERS, default=AS_GIVEN, optional=True,
                               tooltip="The order of the rows: as they come, or the best score "
                               "first."),
                io.Boolean.Input(
                    "allow_unmatched", default=False, optional=True, advanced=True,
                    tooltip="On: LoRA keys or layer patterns that match nothing are ignored.",
                ),
            ],
            outputs=[
                io.Image.Output("grid", tooltip="For Preview Image or Save Image."),
                io.Image.Output("images", is_output_list=True,
                                tooltip="The pictures of all cells, row by row."),
                io.String.Output("rows", is_output_list=True,
                                 tooltip="A row label for each image."),
                io.String.Output("columns", is_output_list=True,
                                 tooltip="A column label for each image."),
                io.String.Output("scores", tooltip="Every picture's scores and a mean for each "
                                 "row. Without clip_vision: empty."),
            ],
        )  # fmt: skip

    @classmethod
    def validate_inputs(
        cls, prompt=None, x_axis=None, y_axis=None, *, layer_sets=None, method=None, guidance=None
    ):
        if guidance is None:
            return f"guidance: choose one of {', '.join(GUIDANCE.keys())}."
        try:
            if None not in (x_axis, y_axis):
                _xy(x_axis, y_axis)
        except CraftError as error:
            return str(error)
        return check_request(prompt, layer_sets, method)

    @classmethod
    def fingerprint_inputs(cls, content_lora=None, style_lora=None, **others) -> str:
        return lora_stamps(content_lora, style_lora)

    @classmethod
    def execute(
        cls, model, clip, vae, negative, latent_image, prompt, x_axis, y_axis, content_lora,
        style_lora, content_strength, style_strength, layer_sets, method, guidance, seed, steps,
        cfg, sampler_name, scheduler, cell, schedule=None, extra_branches=(), lora_stack=(),
        expert_encoder="", clip_vision=None, style_clip_vision=None, content_reference=None,
        style_reference=None, sort_by=AS_GIVEN, allow_unmatched=False,
    ) -> io.NodeOutput:  # fmt: skip
        references = {"content": [content_reference], "style": [style_reference]}
        judges = Judges(references, [clip_vision], [style_clip_vision])
        check_order(sort_by, judges)
        grid, layers = _xy(x_axis, y_axis), layer_set_text(layer_sets)
        fusion, knobs = chosen(method, "method", FUSION)
        rule, weights = chosen(guidance, "guidance", GUIDANCE)
        request = GridRequest(
            grid,
            GridSetting(fusion, knobs, layers, content_strength, style_strength, schedule,
                        rule.key, weights, cfg, seed),
            (content_lora, style_lora), tuple(extra_branches or ()), lora_stack or (),
            RouterRequest(prompt, (), layers, {}, None, allow_unmatched, expert_encoder or ""),
            Sampling(negative, latent_image, vae, steps, cfg, sampler_name, scheduler),
        )  # fmt: skip

        kept = _kept(cls.hidden)

        def show(text: str, made: MadeCell | None) -> None:
            shown = _shown(grid, made, judges)
            kept.add(text, shown)
            tell(cls, text, grid=shown)

        found = fill_grid(model, clip, request, show)
        warn(cls, *found.warnings)
        cells = found.labelled(grid)
        sheet = scored_grid(cells, cell, judges, sort_by)
        show("\n".join([*found.warnings, f"{len(cells)} cells are done."]), None)
        return io.NodeOutput(
            sheet.grid,
            [one.picture for one in cells],
            [one.row for one in cells],
            [one.column for one in cells],
            sheet.report,
        )


def _gives_cfg(hidden: Any) -> bool:
    """Whether a node takes the cfg of Method Sweep's columns; True where only the host knows."""
    prompt = hidden and hidden.prompt
    if not prompt:
        return True
    place = [one.id for one in MethodSweep.define_schema().outputs].index("scale")
    own = [str(hidden.unique_id), place]
    return any(own == value for node in prompt.values() for value in node["inputs"].values())


def _xy(x_axis: str, y_axis: str) -> Grid:
    return grid_of(x_axis, y_axis, ("auto", *OF_MODEL))


def _kept(hidden: Any) -> ShownGrid:
    """Where what the node shows is kept, for the page to show it when it is loaded again."""
    saved = hidden and hidden.extra_pnginfo
    workflow = saved.get("workflow") if isinstance(saved, dict) else None
    if not isinstance(workflow, dict):  # a prompt of no workflow
        return ShownGrid(None)
    return ShownGrid.begun(workflow.get("id"), hidden.unique_id)


def _shown(grid: Grid, made: MadeCell | None, judges: Judges) -> dict:
    """What the page draws: the labels, and the cell that is new."""
    labels = {
        "rows": [value.label for value in grid.rows],
        "columns": [value.label for value in grid.columns],
    }
    if made is None:
        return {**labels, "cells": []}
    file = BytesIO()
    in_a_row(shown_pictures(made.picture, _ON_NODE)).save(file, "JPEG", quality=90)
    scores = ""
    if judges.any:
        groups = [""] * len(made.picture)
        scores = lines_by_group(judges.scores([made.picture]), groups)[""]
    cell = {
        "row": made.cell.row,
        "column": made.cell.column,
        "picture": f"data:image/jpeg;base64,{b64encode(file.getvalue()).decode()}",
        "scores": scores,
        "preset": dumps(made.cell.setting.as_preset()),
    }
    return {**labels, "cells": [cell]}
