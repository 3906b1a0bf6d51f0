"""Content/Style LoRA Router: two LoRAs and a marked prompt become a routed MODEL."""

from __future__ import annotations

from comfy_api.latest import io

from ..comfy_adapter.draw.run_map import view_under
from ..comfy_adapter.model.lora_files import SAME, for_second_model, lora_stamps
from ..comfy_adapter.page.notice import blocked, warn
from ..comfy_adapter.page.pair import pair_inputs, second_file_input
from ..comfy_adapter.page.sockets import (
    CATEGORY,
    BranchesSocket,
    EncoderSocket,
    LoraStackSocket,
    ScheduleSocket,
)
from ..comfy_adapter.page.whole_sigmas import given_sigmas, whole_sigmas_input
from ..comfy_adapter.page.widgets import layer_set_menu, method_menu
from ..comfy_adapter.use.router import (
    RouterRequest,
    SecondModel,
    check_request,
    layer_set_text,
    route,
    with_own_loras,
)
from ..craft_core.fusion import FUSION
from ..craft_core.starting import GUIDED_STRENGTH

_PROMPT = "A photo of <c>sks dog</c> in <s>watercolor style</s>"
_NO_SECOND = (
    "The Router's output second_model is used and its input second_model is empty. Connect the "
    "second MODEL there."
)
_UNUSED_FILES = (
    "second_content_lora and second_style_lora do not count without a second_model. Connect one, "
    f"or set them to {SAME}."
)


class Router(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CRAFTRouter",
            display_name="Content/Style LoRA Router",
            category=CATEGORY,
            hidden=[io.Hidden.unique_id],
            not_idempotent=True,  # an equal Router elsewhere shows the maps of its own runs
            description="Routes a content LoRA and a style LoRA through one MODEL. <c> and <s> in "
            "the prompt say which phrase is content and which is style; a role without a marker "
            "is off. Nothing is merged into the weights. Sample with ACFG KSampler, or with any "
            "sampler for standard guidance.",
            search_aliases=["craft", "lora fusion", "content style", "b-lora", "merge loras",
                            "mix loras", "combine two loras", "lora stack", "style lora",
                            "content lora"],
            inputs=[
                io.Model.Input("model", tooltip="The backbone the LoRAs act on."),
                io.Clip.Input("clip", tooltip="Encodes the prompt without its markers."),
                io.String.Input(
                    "prompt", multiline=True, dynamic_prompts=True, default=_PROMPT,
                    tooltip="Mark phrases: <c>a dog</c> is content, <s>ink style</s> is style. The "
                    "text encoder never sees the markers.",
                ),
                *pair_inputs(
                    "Dial of content (gamma_c), of the LoRA and of extra contents.",
                    "Dial of style (gamma_s), of the LoRA and of extra styles.",
                    GUIDED_STRENGTH,
                ),
                layer_set_menu("layer_sets"),
                method_menu("method", FUSION, "How the branches are combined."),
                ScheduleSocket.Input(
                    "schedule", optional=True,
                    tooltip="Strength over time, from Timestep Schedule. None: constant.",
                ),
                BranchesSocket.Input(
                    "extra_branches", optional=True,
                    tooltip="Further contents or styles, from LoRA List or Load LoRA Branch.",
                ),
                LoraStackSocket.Input(
                    "lora_stack", optional=True,
                    tooltip="Ordinary LoRAs (speed, detail) to apply to the backbone itself, as "
                    "the LoRA loader does: they act on all rows and all steps.",
                ),
                io.Boolean.Input(
                    "allow_unmatched", default=False, optional=True, advanced=True,
                    tooltip="Off: LoRA keys or layer patterns that match nothing are an error. "
                    "On: they are listed in the report and ignored.",
                ),
                EncoderSocket.Input(
                    "expert_encoder", optional=True,
                    tooltip="A scale for each layer of each LoRA, by what the marked phrases say: "
                    "from Load Expert Encoder or Train Expert Encoder. None: markers alone.",
                ),
                whole_sigmas_input(),
                io.Model.Input(
                    "second_model", optional=True,
                    tooltip="A MODEL that samples after the first: Wan 2.2's low-noise expert, a "
                    "refiner, or the same model for a hi-res pass. Routed in the same way, for "
                    "the output second_model; the schedule goes on in it.",
                ),
                second_file_input(
                    "second_content_lora", "The content LoRA of second_model, where files come in "
                    "pairs (high and low noise). same: content_lora's file.",
                ),
                second_file_input(
                    "second_style_lora", "The style LoRA of second_model, where files come in "
                    "pairs (high and low noise). same: style_lora's file.",
                ),
            ],
            outputs=[
                io.Model.Output("routed_model", display_name="model",
                                tooltip="Carries the branches; weights untouched."),
                io.Conditioning.Output("conditioning", tooltip="The prompt without markers."),
                io.String.Output("clean_prompt", tooltip="What the text encoder saw."),
                io.String.Output("report", tooltip="Layers, patterns, gammas: what was matched."),
                LoraStackSocket.Output("lora_stack_out", display_name="lora_stack",
                                       tooltip="The given stack plus this content and style LoRA."),
                io.Model.Output("routed_second_model", display_name="second_model",
                                tooltip="second_model with the branches, for the sampler after "
                                "the first's."),
            ],
        )  # fmt: skip

    @classmethod
    def validate_inputs(cls, prompt=None, *, layer_sets=None, method=None):
        # The host hands over every menu that has widgets of its own, asked for or not.
        # None: the prompt is linked, a menu has no such entry. Files the host checks itself.
        return check_request(prompt, layer_sets, method)

    @classmethod
    def fingerprint_inputs(
        cls, content_lora=None, style_lora=None, second_content_lora=None, second_style_lora=None,
        **others,
    ) -> str:  # fmt: skip
        return lora_stamps(content_lora, style_lora, second_content_lora, second_style_lora)

    @classmethod
    def execute(
        cls, model, clip, prompt, content_lora, style_lora, content_strength, style_strength,
        layer_sets, method, schedule=None, extra_branches=(), lora_stack=(),
        allow_unmatched=False, expert_encoder="", whole_sigmas=None, second_model=None,
        second_content_lora=SAME, second_style_lora=SAME,
    ) -> io.NodeOutput:  # fmt: skip
        names, strengths = (content_lora, style_lora), (content_strength, style_strength)
        request = RouterRequest(
            prompt, with_own_loras(names, strengths, extra_branches), layer_set_text(layer_sets),
            method, schedule, allow_unmatched, expert_encoder or "", given_sigmas(whole_sigmas),
        )  # fmt: skip
        seconds, second = (second_content_lora, second_style_lora), None
        unused = []
        if second_model is not None:
            files = [name if own == SAME else own for name, own in zip(names, seconds, strict=True)]
            branches = with_own_loras(files, strengths, for_second_model(extra_branches))
            second = SecondModel(second_model, branches)
        elif seconds != (SAME, SAME):
            unused = [_UNUSED_FILES]
        routed = route(model, clip, request, lora_stack or (), second=second)
        warn(cls, *unused, *routed.warnings, then=routed.report)
        shown, after = view_under(cls, routed.model), blocked(_NO_SECOND)
        if routed.second is not None:
            after = view_under(cls, routed.second, beside=shown)
        return io.NodeOutput(
            shown, routed.conditioning, routed.clean_prompt, routed.report, routed.stack, after
        )
