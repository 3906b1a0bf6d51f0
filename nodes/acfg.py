"""ACFG Guider and ACFG KSampler: routed LoRAs on the conditional rows only, or by role weights."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io, ui

from ..comfy_adapter.draw.run_map import map_output, view_under, viewer_of
from ..comfy_adapter.engine.engine import ASYMMETRIC
from ..comfy_adapter.guide.acfg import ChosenRule, acfg_guider, acfg_sample, objections
from ..comfy_adapter.page.choices import SAMPLERS, SCHEDULERS
from ..comfy_adapter.page.notice import tell, warn
from ..comfy_adapter.page.sockets import CATEGORY, ScheduleSocket
from ..comfy_adapter.page.widgets import chosen, knob_widget, refuse_unknown
from ..craft_core.guidance import GUIDANCE
from ..craft_core.starting import GUIDED_CFG

_BY_SWITCH = "acfg/cfg"
_OTHERS = [rule for rule in GUIDANCE if rule.key not in ASYMMETRIC]
_ASYMMETRIC = io.Boolean.Input(
    "asymmetric", default=True, label_on="ACFG", label_off="standard CFG",
    tooltip="On: LoRAs act on the conditional rows only and the unconditional rows run on the "
    "backbone (ACFG, CRAFT-LoRA Eqs. 9-11). Off: on all rows, as standard CFG. "
    "This switch is the paper's ablation.",
)  # fmt: skip
_CFG = io.Float.Input(
    "cfg", default=GUIDED_CFG, min=0.0, max=100.0, step=0.1, round=0.01,
    tooltip="Guidance scale w in uncond + w (cond - uncond); the paper's is w - 1. At 1 the host "
    "runs no unconditional rows, so there is nothing to be asymmetric to.",
)  # fmt: skip


def _guidance() -> list[io.Input]:
    """The inputs that came later: last, so that saved workflows keep their values."""
    options = [io.DynamicCombo.Option(_BY_SWITCH, [])]
    for rule in _OTHERS:
        widgets = [knob_widget(parameter) for parameter in rule.parameters]
        options.append(io.DynamicCombo.Option(rule.key, widgets))
    lines = [f"{rule.key}: {rule.summary}" for rule in _OTHERS]
    menu = io.DynamicCombo.Input(
        "guidance", options=options, optional=True,
        tooltip="\n".join([
            "How the predictions of a step are combined.",
            f"{_BY_SWITCH}: as asymmetric says; the others do not look at that switch.",
            *lines,
        ]),
    )  # fmt: skip
    course = ScheduleSocket.Input(
        "weight_schedule", optional=True,
        tooltip="For the weights of guidance, from Timestep Schedule. Where it has a role at 0, "
        "the role's weight is 1 and costs no evaluation; at 1 it is the weight set here.",
    )  # fmt: skip
    return [menu, course]


def _rule(node: type[io.ComfyNode], menu: dict[str, Any] | None, course: Any) -> ChosenRule | None:
    """What the menu says; None where the `asymmetric` switch decides."""
    if menu is None or menu["guidance"] == _BY_SWITCH:
        refuse_unknown(node, "guidance", [_BY_SWITCH, *(rule.key for rule in _OTHERS)])
        return None
    rule, settings = chosen(menu, "guidance", GUIDANCE)
    return ChosenRule(rule.key, settings, course)


class ACFGGuider(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CRAFTACFGGuider",
            display_name="ACFG Guider",
            category=CATEGORY,
            hidden=[io.Hidden.unique_id, io.Hidden.prompt],
            not_idempotent=True,  # an equal guider elsewhere shows the maps of its own runs
            description="Asymmetric classifier-free guidance for SamplerCustomAdvanced: the "
            "routed LoRAs act on the conditional rows, unconditional rows stay on the backbone.",
            search_aliases=["craft", "asymmetric cfg", "guider", "acfg"],
            inputs=[
                io.Model.Input("model", tooltip="A MODEL from the Content/Style LoRA Router."),
                io.Conditioning.Input("positive", tooltip="The Router's conditioning."),
                io.Conditioning.Input("negative", tooltip="What the image should not show."),
                _CFG,
                _ASYMMETRIC,
                *_guidance(),
            ],
            outputs=[io.Guider.Output(tooltip="For SamplerCustomAdvanced.")],
        )

    @classmethod
    def execute(
        cls, model, positive, negative, cfg, asymmetric, guidance=None, weight_schedule=None
    ) -> io.NodeOutput:
        rule = _rule(cls, guidance, weight_schedule)
        warn(cls, *objections(model, cfg, asymmetric, rule))
        if viewer_of(model):
            model = view_under(cls, model)
        return io.NodeOutput(acfg_guider(model, positive, negative, cfg, asymmetric, rule))


class ACFGKSampler(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CRAFTACFGKSampler",
            display_name="ACFG KSampler",
            category=CATEGORY,
            hidden=[io.Hidden.unique_id, io.Hidden.prompt],
            has_intermediate_output=True,
            description="The host's KSampler with asymmetric classifier-free guidance: the routed "
            "LoRAs act on the conditional rows, the unconditional rows stay on the backbone.",
            search_aliases=["craft", "asymmetric cfg", "sampler", "ksampler", "acfg"],
            inputs=[
                io.Model.Input("model", tooltip="A MODEL from the Content/Style LoRA Router."),
                io.Int.Input(
                    "seed", default=0, min=0, max=0xFFFFFFFFFFFFFFFF, control_after_generate=True,
                    tooltip="The random seed of the noise.",
                ),
                io.Int.Input("steps", default=20, min=1, max=10000, tooltip="Denoising steps."),
                _CFG,
                io.Combo.Input(
                    "sampler_name", options=SAMPLERS,
                    tooltip="The sampling algorithm; two-stage ones read the schedule at each of "
                    "their evaluations.",
                ),
                io.Combo.Input(
                    "scheduler", options=SCHEDULERS,
                    tooltip="How the noise falls over the steps.",
                ),
                io.Conditioning.Input("positive", tooltip="The Router's conditioning."),
                io.Conditioning.Input("negative", tooltip="What the image should not show."),
                io.Latent.Input("latent_image", tooltip="The latent to denoise."),
                io.Float.Input(
                    "denoise", default=1.0, min=0.0, max=1.0, step=0.01,
                    tooltip="Below 1 keeps the structure of the given image.",
                ),
                _ASYMMETRIC,
                *_guidance(),
            ],
            outputs=[io.Latent.Output(tooltip="The denoised latent.")],
        )  # fmt: skip

    @classmethod
    def execute(
        cls, model, seed, steps, cfg, sampler_name, scheduler, positive, negative, latent_image,
        denoise, asymmetric, guidance=None, weight_schedule=None,
    ) -> io.NodeOutput:  # fmt: skip
        rule = _rule(cls, guidance, weight_schedule)
        warnings = objections(model, cfg, asymmetric, rule)
        warn(cls, *warnings)
        made = acfg_sample(
            model, asymmetric, seed, steps, cfg, sampler_name, scheduler, positive, negative,
            latent_image, denoise, rule=rule,
        )  # fmt: skip
        if made.cost:
            tell(cls, "\n".join([*warnings, made.cost]))
        viewer = viewer_of(model)
        if viewer:
            viewer.withdraw()
        if made.activity is None or viewer is None:
            return io.NodeOutput(made.latent, ui=map_output([]))
        return io.NodeOutput(made.latent, ui=ui.PreviewImage(made.activity, cls=cls))
