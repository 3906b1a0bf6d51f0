"""ACFG Guider and ACFG KSampler: routed LoRAs on the conditional rows only."""

from __future__ import annotations

from comfy_api.latest import io, ui

from ..comfy_adapter.draw.run_map import map_output, view_under, viewer_of
from ..comfy_adapter.guide.acfg import acfg_guider, acfg_sample, objections
from ..comfy_adapter.page.choices import SAMPLERS, SCHEDULERS
from ..comfy_adapter.page.notice import warn
from ..comfy_adapter.page.sockets import CATEGORY

_ASYMMETRIC = io.Boolean.Input(
    "asymmetric", default=True, label_on="ACFG", label_off="standard CFG",
    tooltip="On: LoRAs act on the conditional rows only and the unconditional rows run on the "
    "backbone (ACFG, CRAFT-LoRA Eqs. 9-11). Off: on all rows, as standard CFG. "
    "This switch is the paper's ablation.",
)  # fmt: skip
_CFG = io.Float.Input(
    "cfg", default=8.0, min=0.0, max=100.0, step=0.1, round=0.01,
    tooltip="Guidance scale w in uncond + w (cond - uncond); the paper's is w - 1. At 1 the host "
    "runs no unconditional rows, so there is nothing to be asymmetric to.",
)  # fmt: skip


class ACFGGuider(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CRAFTACFGGuider",
            display_name="ACFG Guider",
            category=CATEGORY,
            hidden=[io.Hidden.unique_id],
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
            ],
            outputs=[io.Guider.Output(tooltip="For SamplerCustomAdvanced.")],
        )

    @classmethod
    def execute(cls, model, positive, negative, cfg, asymmetric) -> io.NodeOutput:
        for text in objections(model, cfg, asymmetric):
            warn(cls, text)
        if viewer_of(model):
            model = view_under(cls, model)
        return io.NodeOutput(acfg_guider(model, positive, negative, cfg, asymmetric))


class ACFGKSampler(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CRAFTACFGKSampler",
            display_name="ACFG KSampler",
            category=CATEGORY,
            hidden=[io.Hidden.unique_id],
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
            ],
            outputs=[io.Latent.Output(tooltip="The denoised latent.")],
        )  # fmt: skip

    @classmethod
    def execute(
        cls, model, seed, steps, cfg, sampler_name, scheduler, positive, negative, latent_image,
        denoise, asymmetric,
    ) -> io.NodeOutput:  # fmt: skip
        for text in objections(model, cfg, asymmetric):
            warn(cls, text)
        latent, activity = acfg_sample(
            model, asymmetric, seed, steps, cfg, sampler_name, scheduler, positive, negative,
            latent_image, denoise,
        )  # fmt: skip
        viewer = viewer_of(model)
        if viewer:
            viewer.withdraw()
        if activity is None or viewer is None:
            return io.NodeOutput(latent, ui=map_output([]))
        return io.NodeOutput(latent, ui=ui.PreviewImage(activity, cls=cls))
