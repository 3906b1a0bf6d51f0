"""A node that hands out the judges, for nodes that score pictures of this world."""

from comfy_api.latest import io

from .judge import JUDGES, JudgeEncoder, load_judge

LABELS = ("first", "second")
_SOCKET = io.Custom("CRAFT_PICTURE_ENCODER")  # an object with name, preprocessing, features


class SmallWorldJudge(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CRAFTSmallWorldJudge",
            display_name="Small World Judge",
            category="CRAFT-LoRA",
            description="The small world's own encoders: one sees what is drawn, the other how. "
            "They know pictures of the small world only.",
            inputs=[io.Combo.Input("judge", options=list(LABELS), default=LABELS[0],
                                   tooltip="The same network, trained from two seeds.")],
            outputs=[
                _SOCKET.Output("content", tooltip="For Content/Style Score's clip_vision."),
                _SOCKET.Output("style", tooltip="For its style_clip_vision."),
            ],
        )  # fmt: skip

    @classmethod
    def execute(cls, judge) -> io.NodeOutput:
        loaded = load_judge(JUDGES[LABELS.index(judge)])
        return io.NodeOutput(*(JudgeEncoder(loaded, role, judge) for role in ("content", "style")))
