"""Timestep Schedule: how strong content and style are over sampling."""

from __future__ import annotations

from comfy_api.latest import io

from ..comfy_adapter.draw.pictures import curves_picture
from ..comfy_adapter.page.sockets import CATEGORY, ScheduleSocket
from ..comfy_adapter.page.widgets import chosen, method_menu
from ..craft_core.schedule import SHAPES
from ..craft_core.schedule.schedule import CLOCKS, Schedule, sample_curve

_FLOOR = "The weakest this role gets: a strength a becomes floor + (1 - floor) a."


class TimestepSchedule(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CRAFTTimestepSchedule",
            display_name="Timestep Schedule",
            category=CATEGORY,
            description="Strength of content and style over sampling, for the Content/Style LoRA "
            "Router. The paper's default is cosine: content early, style late.",
            search_aliases=["craft", "lora schedule", "time dependent lora", "keyframes"],
            has_intermediate_output=True,
            inputs=[
                method_menu("shape", SHAPES, "The course of the two strengths."),
                io.Float.Input(
                    "content_floor", default=0.0, min=0.0, max=1.0, step=0.01, tooltip=_FLOOR
                ),
                io.Float.Input(
                    "style_floor", default=0.0, min=0.0, max=1.0, step=0.01, tooltip=_FLOOR
                ),
                io.Combo.Input(
                    "clock", options=list(CLOCKS), default=CLOCKS[0],
                    tooltip="steps: from the first to the last step of the run, whatever its "
                    "denoise. model: the model's whole noise range, so img2img starts midway.",
                ),
            ],
            outputs=[
                ScheduleSocket.Output("schedule", tooltip="For the Router's schedule."),
                io.Image.Output("picture", tooltip="The two curves."),
            ],
        )  # fmt: skip

    @classmethod
    def validate_inputs(cls, clock=None, *, shape=None):
        # The host hands over `shape` because it has widgets of its own. None: no such entry. It
        # reports an answer under an input named here, so one has to be: clock, None where linked.
        if shape is None:
            return f"shape: choose one of {', '.join(SHAPES.keys())}."
        return clock in (None, *CLOCKS) or f"clock: choose one of {', '.join(CLOCKS)}."

    @classmethod
    def execute(cls, shape, content_floor, style_floor, clock) -> io.NodeOutput:
        method, knobs = chosen(shape, "shape", SHAPES)
        schedule = Schedule(method.key, knobs, content_floor, style_floor, clock)
        _, content, style = zip(*sample_curve(schedule, 201), strict=True)
        picture = curves_picture(content, style, f"{method.label}, clock: {clock}")
        return io.NodeOutput(schedule, picture)
