"""Frequency-guided generation: low frequencies from one condition, high ones from another.

CRAFT-LoRA (arXiv 2602.18936), App. A.1: z_t <- F^-1(M_low F(z_c) + M_high F(z_s)) at every step
of denoising, z_c guided by the content prompt and z_s by the style prompt.

Departure: the two *denoised predictions* are blended, not the two noisy latents. Started from
the same z, one step of Euler, DDIM or any other sampler that is linear in its predictions takes
both to latents whose blend is the step taken with the blended prediction, so there the two are
the same; and only this form leaves the sampler, its noise and an inpainting mask alone, so it
runs under every one of the host's. "Content fixed" pictures keep the low band of the content
reference itself (its clean latent in place of the prediction), "style fixed" ones the high band
of the style reference. The paper names both and gives no formula for either; this is ours.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import comfy.model_management
import comfy.sample
import comfy.samplers
import comfy.utils
import latent_preview
import torch
from torch import Tensor

from ...craft_core.errors import CraftError
from ...craft_core.frequency import blend, check_band
from .pair_set import Band, PairSet, indices, shared_captions
from .references import References

CONTENT, STYLE, NEGATIVE = "positive", "middle", "negative"  # the host's names for three prompts


class FrequencyGuider(comfy.samplers.CFGGuider):
    """A guider whose prediction is the low band of one source and the high band of another.

    A source is a prompt's guided prediction, or a clean latent that is kept. Each prompt gets
    the host's whole guidance (cfg, pre- and post-cfg functions) by itself; all rows of a step go
    through the model in one batch, and a prompt from which no band is taken is not evaluated.
    """

    def __init__(self, model: Any, band: Band) -> None:
        """model: ModelPatcher. Raises CraftError for a cutoff outside 0..1."""
        super().__init__(model)
        check_band(band.cutoff, band.domain)
        self.band = band
        self.kept: dict[str, Tensor] = {}
        self._kept_in_model: dict[str, Tensor] = {}

    def set_conds(self, content: list, style: list, negative: list) -> None:
        self.inner_set_conds({CONTENT: content, STYLE: style, NEGATIVE: negative})

    def keep(self, low: Tensor | None = None, high: Tensor | None = None) -> None:
        """Clean latents (as a VAE gives them, broadcast over the batch) whose band is kept."""
        given = {CONTENT: low, STYLE: high}
        self.kept = {name: latent for name, latent in given.items() if latent is not None}

    def sample(self, noise: Any, latent_image: Any, *args: Any, **kwargs: Any) -> Any:
        """Run the host's sampling. Raises CraftError for a latent without one spatial grid."""
        if latent_image.is_nested or latent_image.ndim < 4:
            raise CraftError(
                "This model's latent is not one grid of pixels (audio, or several streams)",
                "Frequency-guided generation splits latents with a height and a width",
                "Use an image or video model",
            )
        return super().sample(noise, latent_image, *args, **kwargs)

    def inner_sample(self, noise: Tensor, latent_image: Tensor, device: Any, *args: Any, **kwargs):
        """The host's run, with the kept latents brought to the model's scale for its length."""
        self._kept_in_model = {
            name: self.inner_model.process_latent_in(latent.to(noise)).expand_as(noise)
            for name, latent in self.kept.items()
        }
        try:
            return super().inner_sample(noise, latent_image, device, *args, **kwargs)
        finally:
            self._kept_in_model = {}

    def predict_noise(self, x: Tensor, timestep: Tensor, model_options=None, seed=None) -> Tensor:
        """The blended denoised prediction, of x's shape. (The host's name; it returns x0.)"""
        model_options = {} if model_options is None else model_options
        heard = self._heard()
        prompts = [name for name in heard if name not in self._kept_in_model]
        predicted = self._guided(prompts, x, timestep, model_options, seed)
        sources = [{**predicted, **self._kept_in_model}[name] for name in heard]
        if len(sources) == 1:
            return sources[0]
        return blend(sources[0], sources[1], self.band.cutoff, self.band.domain)

    def _heard(self) -> tuple[str, ...]:
        """The sources that have a band: both, or one at an end stop of the cutoff."""
        if self.band.cutoff == 1.0:
            return (CONTENT,)
        return (STYLE,) if self.band.cutoff == 0.0 else (CONTENT, STYLE)

    def _guided(
        self, names: list[str], x: Tensor, timestep: Tensor, model_options: dict, seed: int | None
    ) -> dict[str, Tensor]:
        """Each prompt's guided prediction, by name: the host's own guidance on a shared batch."""
        negative = self.conds[NEGATIVE]
        options = [model_options] * len(names)
        if len(names) > 1 and "sampler_calc_cond_batch_function" not in model_options:
            options = self._shared_batch(names, negative, x, timestep, model_options)
        return {
            name: comfy.samplers.sampling_function(
                self.inner_model, x, timestep, negative, self.conds[name], self.cfg, own, seed
            )
            for name, own in zip(names, options, strict=True)
        }

    def _shared_batch(
        self, names: list[str], negative: list, x: Tensor, timestep: Tensor, model_options: dict
    ) -> list[dict]:
        """Model options per prompt that hand the host predictions already made, in one batch."""
        plain = math.isclose(self.cfg, 1.0) and not model_options.get("disable_cfg1_optimization")
        conds = [*(self.conds[name] for name in names), None if plain else negative]
        out = comfy.samplers.calc_cond_batch(self.inner_model, conds, x, timestep, model_options)

        def handing(index: int) -> Callable[[dict], list[Tensor]]:
            return lambda args: [out[index], out[-1].clone()]

        return [
            {**model_options, "sampler_calc_cond_batch_function": handing(index)}
            for index in range(len(names))
        ]


@dataclass(frozen=True)
class Generation:
    """What sampling needs: the host's MODEL, CLIP and VAE and the settings of its KSampler.

    keep_references: two pictures a pair, one with the content reference's low band kept, one with
    the style reference's high band kept; else one picture a pair, from the prompts alone.
    """

    model: Any = None
    clip: Any = None
    vae: Any = None
    negative_prompt: str = ""
    seed: int = 0
    steps: int = 20
    cfg: float = 7.0
    sampler_name: str = "euler"
    scheduler: str = "normal"
    denoise: float = 1.0
    keep_references: bool = True

    def check_sockets(self) -> None:
        """Raise CraftError where the model, its text encoder or its VAE is missing."""
        for name, what in (("model", self.model), ("clip", self.clip), ("vae", self.vae)):
            if what is None:
                raise CraftError(
                    f"Mode generate has no {name}",
                    "It samples pictures with a model, its text encoder and its VAE",
                    f"Connect {name}, or choose another mode",
                )


def check_prompts(captions: Sequence[str], side: str) -> None:
    """Raise CraftError where a side has no caption at all: the captions are the prompts."""
    if not any(caption.strip() for caption in captions):
        raise CraftError(
            f"Mode generate has no {side} captions",
            "The captions are the prompts: one line for each reference image",
            f"Write them into {side}_captions",
        )


@dataclass(frozen=True)
class _Encoded:
    """One side's references as the model takes them: conditionings and clean latents."""

    prompts: list[list]
    latents: list[Tensor]


def generated_pairs(
    content: References, style: References, band: Band, template: str, g: Generation
) -> PairSet:
    """Sample every pair; all start from the same noise, so a row differs by its style alone.

    With keep_references x_c = low band of content i's latent + high band guided by style prompt
    j, and x_s = low band guided by content prompt i + high band of style j's latent (App. A.1's
    table); without, x_c = x_s = low band guided by content prompt i + high by style prompt j.
    Raises CraftError for what is missing; the host's interrupt ends it between model calls.
    """
    g.check_sockets()
    check_prompts(content.captions, "content")
    check_prompts(style.captions, "style")
    contents, styles = _encoded(content, g), _encoded(style, g)
    negative = _prompt(g.negative_prompt, g)
    jobs = [(i, j, keep) for i, j in indices(content, style) for keep in _kept(g)]
    callback = _progress(g, len(jobs))
    latents = []
    for number, (i, j, keep) in enumerate(jobs):
        guider = FrequencyGuider(g.model, band)
        guider.set_conds(contents.prompts[i], styles.prompts[j], negative)
        guider.set_cfg(g.cfg)
        guider.keep(
            low=contents.latents[i] if keep == CONTENT else None,
            high=styles.latents[j] if keep == STYLE else None,
        )
        latents.append(_sampled(guider, contents.latents[i], g, callback(number)))
    pictures = [_decoded(latent, g) for latent in latents]
    each = len(_kept(g))
    captions = shared_captions(content, style, template)
    note = f"Sampled {len(jobs)} pictures, all from the noise of seed {g.seed}."
    return PairSet(pictures[::each], pictures[each - 1 :: each], captions, captions, (note,))


def pixel_multiple(vae: Any) -> int:
    """Pixels per latent cell: a picture's sides must be a multiple of it to keep their size."""
    return max(1, int(vae.spacial_compression_encode()))


def _kept(g: Generation) -> tuple[str | None, ...]:
    return (CONTENT, STYLE) if g.keep_references else (None,)


def _encoded(references: References, g: Generation) -> _Encoded:
    prompts = {caption: _prompt(caption, g) for caption in dict.fromkeys(references.captions)}
    return _Encoded(
        [prompts[caption] for caption in references.captions],
        [_latent(references.image(index), g) for index in range(len(references))],
    )


def _prompt(text: str, g: Generation) -> list:
    return g.clip.encode_from_tokens_scheduled(g.clip.tokenize(text))


def _latent(image: Tensor, g: Generation) -> Tensor:
    """(1, c, h, w), or (1, c, 1, h, w) for a model of video. Raises CraftError on a wrong VAE."""
    latent = comfy.sample.fix_empty_latent_channels(g.model, g.vae.encode(image))
    needed = g.model.get_model_object("latent_format").latent_channels
    if latent.shape[1] != needed:
        raise CraftError(
            f"The VAE gives latents of {latent.shape[1]} channels",
            f"The model works on {needed}",
            "Connect the VAE that belongs to the model",
        )
    return latent


def _sampled(guider: FrequencyGuider, reference: Tensor, g: Generation, callback) -> Tensor:
    """One run as the host's KSampler makes it; denoise < 1 starts from the content reference."""
    settings = comfy.samplers.KSampler(
        g.model, g.steps, g.model.load_device, g.sampler_name, g.scheduler, g.denoise
    )
    start = reference if g.denoise < 1.0 else torch.zeros_like(reference)
    latent = guider.sample(
        comfy.sample.prepare_noise(start, g.seed),
        start,
        comfy.samplers.sampler_object(g.sampler_name),
        settings.sigmas,
        callback=callback,
        disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED,
        seed=g.seed,
    )
    return latent.to(comfy.model_management.intermediate_device())


def _decoded(latent: Tensor, g: Generation) -> Tensor:
    """(1, height, width, 3) in [0, 1]"""
    image = g.vae.decode(latent)
    return image.reshape(-1, *image.shape[-3:])[:1, ..., :3]


def _progress(g: Generation, runs: int) -> Callable[[int], Callable]:
    """The host's preview and progress bar over all runs: run number -> its sampling callback."""
    whole = latent_preview.prepare_callback(g.model, g.steps * runs)

    def of(run: int) -> Callable:
        def step(number: int, x0: Tensor, x: Tensor, steps: int) -> None:
            whole(run * steps + number, x0, x, steps * runs)

        return step

    return of
