"""The host's MODEL as a Denoiser: frozen, private to one training, open to gradients.

The user's MODEL is never trained on, hooked or reloaded: as the host's own Train LoRA does, a
training gets a copy of its own, loaded outside inference mode (inside it, autograd refuses the
weights), with the MODEL's patches on it (a rank-limited backbone stays one).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

import comfy.conds
import comfy.ldm.modules.attention
import comfy.ldm.modules.diffusionmodules.model
import comfy.ldm.modules.diffusionmodules.openaimodel
import comfy.model_management
import comfy.model_patcher
import comfy.ops
import comfy.sampler_helpers
import comfy.samplers
import torch
from comfy.quant_ops import QuantizedTensor
from torch import Tensor, nn
from torch.nn import functional

from ...craft_core.errors import CraftError
from ...craft_core.families import mixes_rows
from ...craft_core.training import Edit, LayerCall
from ..engine.modules import dequantised, is_norm, model_layers, output_axis, scaled_norm
from ..engine.shortcuts import forget_keys, without_replays
from .gradients.kernels import (
    explicit_attention,
    plain_kernels,
    with_exact_gradients,
    with_gradient,
)
from .gradients.saved import Gradients
from .precision import AUTO, decide

# Blocks of UNets and VAEs whose inner activations are computed again in the backward pass.
_BLOCKS = (
    comfy.ldm.modules.diffusionmodules.openaimodel.ResBlock,
    comfy.ldm.modules.attention.BasicTransformerBlock,
    comfy.ldm.modules.diffusionmodules.model.ResnetBlock,
)


class HostDenoiser:
    """See craft_core.training.Denoiser. Made by `open_denoiser`, usable while that block lasts."""

    def __init__(
        self, patcher: Any, vae: Any, precision: torch.dtype, gradients: Gradients
    ) -> None:
        self._patcher, self._model, self._precision = patcher, patcher.model, precision
        self._gradients = gradients
        self._vae = vae
        self.layers = model_layers(patcher)
        self.device = patcher.load_device
        self.sigmas = self._model.model_sampling.sigmas.detach().float()
        self._prepared: dict[tuple[int, torch.Size], tuple[Any, dict]] = {}

    @property
    def guides_itself(self) -> bool:
        """Whether the model was made to follow a prompt at cfg 1, as far as its weights tell: it
        takes guidance as a number, or is told where the sampler's step ends, or is Flux.1 schnell.
        """
        network, kind = self._model.diffusion_model, type(self._model.model_config).__name__
        takes_number = isinstance(getattr(network, "guidance_in", None), nn.Module)
        takes_number = takes_number and not isinstance(network.guidance_in, nn.Identity)
        return takes_number or _reads_step(network) or kind == "FluxSchnell"

    def noised(self, latent: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
        return self._model.model_sampling.noise_scaling(sigma, noise, latent, False)

    def denoise(self, x: Tensor, sigma: Tensor, conditions: Sequence[Any]) -> Tensor:
        rows = [self._model_conds(one, x[i : i + 1]) for i, one in enumerate(conditions)]
        done: dict[int, Tensor] = {}
        reads_step = _reads_step(self._model.diffusion_model)
        for group in [[i] for i in range(len(rows))] if reads_step else _alike(rows):
            given = comfy.samplers.cond_cat([rows[i] for i in group])
            out = self._call(x[group], sigma[group], given)
            done.update(zip(group, out, strict=True))
        return torch.stack([done[i] for i in range(len(rows))])

    def _call(self, x: Tensor, sigma: Tensor, given: dict[str, Any]) -> Tensor:
        options = dict(self._patcher.model_options.get("transformer_options", {}))
        # A step of no length, whose mean velocity is the velocity: see _reads_step.
        options |= {"cond_or_uncond": [0], "sigmas": sigma, "sample_sigmas": sigma[:1].repeat(2)}
        on_cpu = self.device.type == "cpu"
        options["optimized_attention_override"] = explicit_attention if on_cpu else with_gradient

        def network() -> Tensor:
            forget_keys(self._model.diffusion_model)  # made with other weights, or in another run
            with self._mixed():
                return self._model.apply_model(x, sigma, transformer_options=dict(options), **given)

        return self._gradients.run(network).float()

    def _mixed(self) -> AbstractContextManager[Any]:
        """Mixed precision. In float32 nothing, as not every device has autocast."""
        if self._precision == torch.float32:
            return nullcontext()
        return torch.autocast(self.device.type, self._precision)

    def _model_conds(self, condition: Any, x: Tensor) -> dict[str, Any]:
        """What the model gets of a CONDITIONING for one row of x's shape, made once."""
        key = (id(condition), x.shape)
        if key not in self._prepared:
            blank = torch.zeros_like(x)
            conds = comfy.sampler_helpers.convert_cond(condition)
            conds = comfy.samplers.encode_model_conds(
                self._model.extra_conds, conds, blank, self.device, "positive",
                latent_image=blank, denoise_mask=None, seed=0,
            )  # fmt: skip
            found = conds[0]["model_conds"]
            ready = {name: one.process_cond(batch_size=1, area=None) for name, one in found.items()}
            self._prepared[key] = (condition, ready)  # the condition too, so that its id stays its
        return self._prepared[key][1]

    def needs_single_rows(self, layers: Iterable[str]) -> bool:
        network = self._model.diffusion_model
        kind = type(network).__name__
        return _reads_step(network) or any(
            mixes_rows(path, kind) or "experts" in path.split(".") for path in layers
        )

    def loss_weight(self, sigma: Tensor) -> Tensor:
        """denoised = a x + b output, so its squared error is b^2 times the output's."""
        one = torch.ones(len(sigma), 1, 1, 1, device=sigma.device)
        sampling = self._model.model_sampling
        b = sampling.calculate_denoised(sigma, one, torch.zeros_like(one))
        return 1 / b.flatten().float().square()

    @contextmanager
    def edited(self, edits: Mapping[str, Edit]) -> Iterator[None]:
        with ExitStack() as stack:
            for path, edit in edits.items():
                layer = self._model.diffusion_model.get_submodule(path)
                handle = layer.register_forward_hook(_hook(edit), with_kwargs=True)
                stack.callback(handle.remove)
            yield

    def decode(self, latent: Tensor) -> Tensor:
        if self._vae is None:
            raise CraftError(
                "The perceptual term has no VAE",
                "It compares decoded pictures",
                "Connect the model's VAE, or set perceptual_weight to 0",
            )
        return self._vae(self._model.process_latent_out(latent))


def gradients_through(network: nn.Module, device: torch.device, checkpointing: bool) -> Gradients:
    """checkpointing: as open_denoiser has it."""
    return Gradients(_blocks(network) if checkpointing else [], device)


@contextmanager
def open_denoiser(
    model: Any, vae: Any = None, precision: str = AUTO, checkpointing: bool = True
) -> Iterator[HostDenoiser]:
    """A private, frozen copy of MODEL as a Denoiser, outside inference mode and with gradients.

    vae: the host's VAE, for `decode`. precision: see precision.decide. checkpointing: keep only
    the blocks' inputs for the backward pass and compute the rest again: about a third slower,
    several times less memory.
    """
    with torch.inference_mode(False), torch.enable_grad(), ExitStack() as undo:
        _require_copyable(vae)
        patcher = _private_copy(model)
        patcher.model.requires_grad_(False)
        dtype = decide(precision, patcher.load_device).dtype
        # A CPU casts best in autocast, from weights in float32.
        stored = torch.float32 if patcher.load_device.type == "cpu" else dtype
        if patcher.model.get_dtype_inference() != stored:
            patcher.set_model_compute_dtype(stored)
        management = comfy.model_management
        undo.callback(management.soft_empty_cache)
        undo.callback(management.cleanup_models)
        undo.callback(setattr, management, "in_training", management.in_training)
        management.load_models_gpu([patcher], memory_required=1e20, force_full_load=True)
        undo.callback(patcher.detach)
        management.in_training = True
        undo.enter_context(without_replays())
        undo.enter_context(plain_kernels())
        with_exact_gradients(patcher.model.diffusion_model)
        gradients = gradients_through(
            patcher.model.diffusion_model, patcher.load_device, checkpointing
        )
        undo.callback(gradients.undo)
        decoder = None
        if vae is not None:
            network = _decoder_of(vae)
            undo.callback(network.to, "cpu")
            own = gradients_through(network, vae.device, checkpointing)
            undo.callback(own.undo)
            decoder = _decode_with(network, vae, own)
        yield HostDenoiser(patcher, decoder, dtype, gradients)


def _private_copy(model: Any) -> Any:
    """Loaded anew by the loader that made it, or copied where no loader is known."""
    if model.cached_patcher_init is not None:
        return _loaded_again(model)
    if model.is_dynamic():
        raise CraftError(
            "This model's loader does not tell how to load it again",
            "Under dynamic VRAM a training loads its own copy of the model",
            "Load it with the host's own loaders, or start ComfyUI with --disable-dynamic-vram",
        )
    _unload(model)  # puts the weights back as loaded
    private = model.clone()
    network = model.model
    shared = (network.model_config, getattr(network, "current_patcher", None))
    own = copy.deepcopy(network, {id(one): one for one in shared} | _quantised_again(network))
    for name, parameter in list(own.named_parameters()):
        if parameter.is_inference():
            holder, _, leaf = name.rpartition(".")
            fresh = nn.Parameter(parameter.detach().clone(), requires_grad=False)
            setattr(own.get_submodule(holder), leaf, fresh)
    private.model = own
    private.backup, private.backup_buffers, private.object_patches_backup = {}, {}, {}
    private.pinned = set()
    return private


def _quantised_again(network: nn.Module) -> dict[int, nn.Parameter]:
    """Copies of the quantised weights by their ids, as copy.deepcopy asks for them: it cannot copy
    these itself, since their numbers are in tensors inside."""
    return {
        id(one): nn.Parameter(one.detach().clone(), requires_grad=False)
        for one in network.parameters()
        if isinstance(one, QuantizedTensor)
    }


def _loaded_again(patcher: Any) -> Any:
    """The patcher with a network of its own, from the loader that made it, and without dynamic
    VRAM. (The host has a short way to it, but not before ComfyUI 0.24.)"""
    load, given, *place = patcher.cached_patcher_init
    fresh = load(*given, disable_dynamic=True)
    if place:
        fresh = fresh[place[0]]
    return patcher.clone(disable_dynamic=True, model_override=fresh.get_clone_model_override())


def _unload(model: Any) -> None:
    """Unload the model and its clones; ComfyUI before 0.24 can only unload all models."""
    if hasattr(comfy.model_management, "unload_model_and_clones"):
        comfy.model_management.unload_model_and_clones(model)
    else:
        comfy.model_management.unload_all_models()


def _decoder_of(vae: Any) -> nn.Module:
    """A private, frozen copy of the VAE's network.

    Under dynamic VRAM it is loaded anew: memory of the card hangs on the VAE's own layers, which a
    plain copy would share and free twice.
    """
    if _is_dynamic(vae):
        network = _loaded_again(vae.patcher).model
    else:
        network = copy.deepcopy(vae.first_stage_model)
    return network.requires_grad_(False).to(vae.device, vae.vae_dtype)


def is_copyable(vae: Any) -> bool:
    """Whether a training can have a copy of the VAE."""
    return not _is_dynamic(vae) or vae.patcher.cached_patcher_init is not None


def _require_copyable(vae: Any) -> None:
    if vae is not None and not is_copyable(vae):
        raise CraftError(
            "This VAE's loader does not tell how to load it again",
            "Under dynamic VRAM a training loads its own copy of the VAE",
            "Start ComfyUI with --disable-dynamic-vram, or set perceptual_weight to 0",
        )


def _is_dynamic(vae: Any) -> bool:
    patcher = getattr(vae, "patcher", None)
    return patcher is not None and patcher.is_dynamic()


def _decode_with(network: Any, vae: Any, gradients: Gradients) -> Callable[[Tensor], Tensor]:
    """(B, C, *spatial) latents -> (B * frames, 3, H, W) in [0, 1]."""

    def decode(latent: Tensor) -> Tensor:
        latent = latent.to(vae.device, vae.vae_dtype)
        pixels = gradients.run(lambda: network.decode(latent)).float()
        if pixels.ndim == 5:
            pixels = pixels.movedim(2, 1).flatten(0, 1)  # (B, 3, frames, H, W)
        shown = vae.process_output(pixels.detach().clone())
        # [-1, 1] to [0, 1] has the slope one half. The host's own cut to [0, 1] would let no
        # gradient through at saturated pixels.
        return shown + (pixels - pixels.detach()) / 2

    return decode


def _alike(rows: Sequence[Mapping[str, Any]]) -> list[list[int]]:
    """Rows that the model can take in one call: the same inputs, of sizes that can be joined."""
    groups: list[list[int]] = []
    for index, row in enumerate(rows):
        for group in groups:
            lead = rows[group[0]]
            if row.keys() == lead.keys() and all(lead[k].can_concat(row[k]) for k in row):
                group.append(index)
                break
        else:
            groups.append([index])
    return groups


def _reads_step(network: nn.Module) -> bool:
    """Whether a model is told where the sampler's step ends: one level for all rows of a call.

    HunyuanImage 2.1 and HunyuanVideo 1.5, distilled by MeanFlow (Geng et al. 2025,
    arXiv:2505.13447): u(x, r, t), the mean velocity from t to r, at r = t is the velocity.
    """
    return getattr(network, "time_r_in", None) is not None


def _hook(edit: Edit) -> Callable[..., Tensor]:
    def hook(layer: Any, args: tuple, kwargs: dict, output: Tensor) -> Tensor:
        x = args[0] if args else kwargs["input"]
        return edit(_call_of(layer, x, output))

    return hook


def _call_of(layer: Any, x: Tensor, output: Tensor) -> LayerCall:
    def product(inputs: Tensor, weight: Tensor) -> Tensor:
        weight = weight.to(inputs.dtype)
        if is_norm(layer):
            return scaled_norm(layer, inputs, weight)
        if hasattr(layer, "kernel_size"):
            return layer._conv_forward(inputs, weight, None)
        return functional.linear(inputs, weight)

    def weight() -> Tensor:
        return dequantised(comfy.ops.cast_bias_weight(layer, x)[0])

    bias = getattr(layer, "bias", None)
    bias = None if bias is None else bias.to(output.device)
    in_groups = getattr(layer, "groups", 1) > 1
    return LayerCall(x, output, bias, weight, product, output_axis(layer) == 1, in_groups)


def _blocks(network: nn.Module) -> list[nn.Module]:
    """Those whose inner activations are worth computing again in the backward pass."""
    blocks = [m for m in network.modules() if isinstance(m, _BLOCKS)]
    if not blocks:  # a DiT: the members of its lists of blocks
        lists = [m for m in network.modules() if isinstance(m, nn.ModuleList)]
        blocks = [block for held in lists for block in held if any(block.children())]
    return blocks
