"""The host's MODEL as a Denoiser: the host's own predictions, with gradients, and nothing left."""

from __future__ import annotations

import gc
import weakref
from functools import partial

import comfy.ldm.modules.attention as attention
import comfy.model_base
import comfy.model_management
import comfy.sampler_helpers
import comfy.samplers
import pretend_device
import pytest
import tiny
import torch
from craft_lora_pack.comfy_adapter.engine.modules import model_layers
from craft_lora_pack.comfy_adapter.model.basis import apply_basis
from craft_lora_pack.comfy_adapter.train.denoiser import open_denoiser
from craft_lora_pack.comfy_adapter.train.gradients.kernels import with_gradient
from craft_lora_pack.craft_core.errors import CraftError
from craft_lora_pack.craft_core.projection import (
    Basis,
    LayerBasis,
    dimension,
    orthonormal,
    project_out,
)
from craft_lora_pack.craft_core.training.recipes.basis import projections
from craft_lora_pack.craft_core.training.recipes.lora import branch_edit
from craft_lora_pack.craft_core.training.targets import trainable
from craft_lora_pack.craft_core.types import Factors
from small_world_models import load

FAMILIES = {"sd15": tiny.sd15, "sdxl": tiny.sdxl}
DEVICE = comfy.model_management.get_torch_device()
KINDS = ("EPS", "V_PREDICTION", "FLOW")
every_family = pytest.mark.parametrize("family", FAMILIES)


def noisy(rows=2, size=8, seed=5):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, 4, size, size, generator=generator)
    return x.to(DEVICE), torch.tensor([0.7, 3.0][:rows], device=DEVICE)


def hosts_prediction(model, x, sigma, conditioning):
    """`denoised` of one row as the host's own sampling code asks for it."""
    conds = comfy.sampler_helpers.convert_cond(conditioning)
    extra = model.model.extra_conds
    conds = comfy.samplers.encode_model_conds(extra, conds, x, x.device, "positive")
    comfy.model_management.load_models_gpu([model])
    model.pre_run()
    return comfy.samplers.calc_cond_batch(model.model, [conds], x, sigma, model.model_options)[0]


@every_family
@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_row_is_denoised_as_the_host_does_it(family, checkpointing):
    model = FAMILIES[family]()
    x, sigma = noisy()
    conditions = [tiny.conditioning(1), tiny.conditioning(2)]
    with open_denoiser(model, None, "fp32", checkpointing) as denoiser:
        found = denoiser.denoise(x, sigma, conditions)
    for i, condition in enumerate(conditions):
        with torch.no_grad():
            expected = hosts_prediction(model, x[i : i + 1], sigma[i : i + 1], condition)
        torch.testing.assert_close(found[i : i + 1], expected, rtol=1e-4, atol=1e-5)


def test_rows_of_different_prompt_lengths_do_not_touch_each_other():
    model = tiny.sd15()
    x, sigma = noisy()
    long, short = tiny.conditioning(1, tokens=9), tiny.conditioning(2, tokens=4)
    with open_denoiser(model, None, "fp32") as denoiser:
        together = denoiser.denoise(x, sigma, [long, short])
        alone = denoiser.denoise(x[1:], sigma[1:], [short])
    torch.testing.assert_close(together[1:], alone)


@pytest.mark.parametrize("kind", KINDS)
def test_the_weighted_error_of_denoised_is_the_error_of_the_networks_own_output(kind):
    """eps, v or flow: |denoised - latent|^2 * weight == |output - its target|^2."""
    model = tiny.sd15()
    config = model.model.model_config
    chosen = comfy.model_base.ModelType[kind]
    model.model.model_sampling = comfy.model_base.model_sampling(config, chosen)
    latent, noise = torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8)
    sigma = torch.tensor([0.3, 0.8])
    with open_denoiser(model, None, "fp32") as denoiser:
        x = denoiser.noised(latent, noise, sigma)
        sampling = denoiser._model.model_sampling
        output = torch.randn(2, 4, 8, 8)
        denoised = sampling.calculate_denoised(sigma, output, x)
        weight = denoiser.loss_weight(sigma)
    s = sigma.view(-1, 1, 1, 1)
    alpha = (1 + s**2).rsqrt()
    target = {"EPS": noise, "V_PREDICTION": alpha * (noise - s * latent), "FLOW": noise - latent}
    own = (output - target[kind]).square().flatten(1).mean(1)
    torch.testing.assert_close(weight * (denoised - latent).square().flatten(1).mean(1), own)


def with_attention_patches():
    """A MODEL with another pack's patch that looks at where in the model it is."""
    model = tiny.sd15().clone()
    model.set_model_attn2_replace(lambda q, k, v, options: 0.5 * q, "input", 1)
    model.set_model_attn1_output_patch(
        lambda out, options: out * (3.0 if options["block"][0] == "input" else 1.0)
    )
    return model


@pytest.mark.parametrize(
    ("make", "channels"),
    [(tiny.sd15, 4), (tiny.sdxl, 4), (tiny.flux, 16), (with_attention_patches, 4)],
    ids=["sd15", "sdxl", "flux", "attention patches"],
)
def test_checkpointing_changes_no_gradient(make, channels):
    x = torch.randn(2, channels, 8, 8, generator=torch.Generator().manual_seed(5)).to(DEVICE)
    sigma = torch.tensor([0.7, 0.3], device=DEVICE)
    conditions = [tiny.conditioning(1), tiny.conditioning(2)]
    gradients = []
    for checkpointing in (False, True):
        with open_denoiser(make(), None, "fp32", checkpointing) as denoiser:
            factors = {
                path: Factors(
                    torch.full((1, *shape[1:]), 0.01, device=DEVICE, requires_grad=True),
                    torch.full((shape[0], 1), 0.01, device=DEVICE, requires_grad=True),
                )
                for path, shape in trainable(denoiser.layers).items()
            }
            edits = {path: branch_edit(one) for path, one in factors.items()}
            with denoiser.edited(edits):
                denoiser.denoise(x, sigma, conditions).square().mean().backward()
        gradients.append({path: one.down.grad for path, one in factors.items()})
    reached = {path for path, value in gradients[0].items() if value is not None}
    assert len(reached) >= len(gradients[0]) - 2  # a replaced attention does not use k and v
    for path in reached:
        one, other = gradients[0][path], gradients[1][path]
        assert (one - other).norm() <= 1e-5 * one.norm()


@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_gradient_through_a_dit_is_that_of_finite_differences(checkpointing):
    x = torch.randn(1, 16, 8, 8, generator=torch.Generator().manual_seed(5)).to(DEVICE)
    sigma, conditions = torch.tensor([0.7], device=DEVICE), [tiny.conditioning(1)]
    generator = torch.Generator().manual_seed(1)
    with open_denoiser(tiny.flux(), None, "fp32", checkpointing) as denoiser:
        path = "double_blocks.0.img_attn.proj"
        shape = denoiser.layers[path]
        down = 0.1 * torch.randn(1, shape[1], generator=generator).to(DEVICE)
        up = (0.1 * torch.randn(shape[0], 1, generator=generator)).to(DEVICE).requires_grad_(True)
        way = torch.randn(shape[0], 1, generator=generator).to(DEVICE)
        way /= way.norm()

        def loss(value):
            with denoiser.edited({path: branch_edit(Factors(down, value))}):
                found = denoiser.denoise(x.clone(), sigma, conditions).double().square().mean()
                if value.requires_grad:
                    found.backward()
            return found.item()

        loss(up)
        step = 3e-2
        with torch.no_grad():
            numeric = (loss(up.detach() + step * way) - loss(up.detach() - step * way)) / (2 * step)
    assert float((up.grad * way).sum()) == pytest.approx(numeric, rel=0.02)


def test_no_private_copy_outlives_its_training():
    gc.collect()
    gc.disable()  # a copy held by a reference cycle would stay until the garbage collector runs
    try:
        with open_denoiser(tiny.sd15()) as denoiser:
            alive = [weakref.ref(m) for m in denoiser._model.diffusion_model.modules()]
        del denoiser
        assert not [one for one in alive if one() is not None]
    finally:
        gc.enable()


@pytest.mark.parametrize("side", ["output", "input"])
def test_projecting_in_training_is_the_backbone_that_the_loader_makes(side):
    """The edit on the plain model == the plain prediction of the model with the basis applied."""
    model = tiny.sdxl()
    generator = torch.Generator().manual_seed(3)
    layers = {p: s for p, s in model_layers(model).items() if s[0] > 8}
    q = {p: orthonormal(torch.randn(dimension(s, side), 3, generator=generator))
         for p, s in layers.items()}  # fmt: skip
    x, sigma = noisy()
    conditions = [tiny.conditioning(1), tiny.conditioning(2)]
    basis = Basis({p: LayerBasis(one, None) for p, one in q.items()}, side)
    limited = apply_basis(model, basis, "content")
    taken_out = projections({p: one.to(DEVICE) for p, one in q.items()}, side)
    with open_denoiser(model, None, "fp32") as denoiser, denoiser.edited(taken_out):
        edited = denoiser.denoise(x, sigma, conditions)
    with open_denoiser(limited, None, "fp32") as denoiser:
        patched = denoiser.denoise(x, sigma, conditions)
        path = next(iter(q))
        own = denoiser._model.diffusion_model.get_submodule(path).weight.cpu()
        plain = model.model.diffusion_model.get_submodule(path).weight
        torch.testing.assert_close(own, project_out(plain, q[path], side), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(edited, patched, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("make", [tiny.sd15, lambda: load().model], ids=["no loader", "loader"])
def test_a_training_leaves_the_users_model_as_it_was(make):
    with torch.inference_mode():
        model = make()
    network = model.model.diffusion_model
    before = {name: value.clone() for name, value in network.state_dict().items()}
    forwards = {name: module.__dict__.get("forward") for name, module in network.named_modules()}
    with torch.inference_mode(), pytest.raises(ZeroDivisionError), open_denoiser(model) as denoiser:
        assert denoiser._model is not model.model
        assert all(not p.is_inference() for p in denoiser._model.diffusion_model.parameters())
        with denoiser.edited({next(iter(denoiser.layers)): lambda call: call.output}):
            _ = 1 / 0
    assert comfy.model_management.in_training is False
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    for name, module in network.named_modules():
        assert not module._forward_hooks and module.__dict__.get("forward") is forwards[name]


def hang_on(network):
    """-> the network, as dynamic VRAM leaves one."""
    network.dynamic_pins, network.dynamic_vbars = {0: tiny.OnTheCard()}, {0: tiny.OnTheCard()}
    for module in network.modules():
        module._v = module._pins = tiny.OnTheCard()
    return network


def dynamic(patcher, monkeypatch):
    hang_on(patcher.model)
    monkeypatch.setattr(patcher, "is_dynamic", lambda: True)


def test_under_dynamic_vram_a_training_loads_model_and_vae_anew(monkeypatch):
    world = load()
    x, sigma = noisy()
    condition = [world.encode("a cat")] * 2
    found = []
    for _ in range(2):
        with open_denoiser(world.model, world.vae, "fp32") as denoiser, torch.no_grad():
            latent = denoiser.denoise(x[:, :3].clone(), sigma, condition)
            found.append((latent, denoiser.decode(latent)))
        dynamic(world.model, monkeypatch)
        if world.vae.patcher.cached_patcher_init is not None:  # None before ComfyUI 0.30
            dynamic(world.vae.patcher, monkeypatch)
    for before, after in zip(*found, strict=True):
        assert torch.equal(before, after)


def test_a_vae_that_is_loaded_anew_gets_the_dtype_in_which_the_host_runs_it(monkeypatch):
    """A dynamic one keeps its file's, and casts at each use."""
    world = load()
    if world.vae.patcher.cached_patcher_init is None:
        pytest.skip("this host's loader does not tell how to load its VAE again")
    make, given, *place = world.vae.patcher.cached_patcher_init

    def stored_in_half(*args, **how):
        made = make(*args, **how)
        (made[place[0]] if place else made).model.half()
        return made

    with open_denoiser(world.model, world.vae) as denoiser, torch.no_grad():
        latent = torch.rand(1, 3, 8, 8, device=DEVICE)
        expected = denoiser.decode(latent)
    dynamic(world.vae.patcher, monkeypatch)
    monkeypatch.setattr(world.vae.patcher, "cached_patcher_init", (stored_in_half, given, *place))
    with open_denoiser(world.model, world.vae) as denoiser, torch.no_grad():
        torch.testing.assert_close(denoiser.decode(latent), expected, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("which", ["model", "VAE"])
def test_a_loader_that_does_not_tell_is_refused_under_dynamic_vram(which, monkeypatch):
    world = load()
    patcher = world.model if which == "model" else world.vae.patcher
    dynamic(patcher, monkeypatch)
    monkeypatch.setattr(patcher, "cached_patcher_init", None)
    with (
        pytest.raises(CraftError, match=f"This {which}'s loader does not tell"),
        open_denoiser(world.model, world.vae),
    ):
        pass


def test_attention_without_a_gradient_is_replaced_by_torchs_own():
    def attention_sage(q, k, v, heads, **_):
        return (q + k + v).detach()

    q, k, v = torch.randn(3, 1, 5, 8, generator=torch.Generator().manual_seed(1)).unbind()
    q.requires_grad_(True)
    expected = attention.attention_pytorch(q, k, v, 2)
    found = with_gradient(attention.wrap_attn(attention_sage), q, k, v, heads=2)
    assert torch.equal(found, expected)
    assert torch.autograd.grad(found.sum(), q)[0].abs().sum() > 0
    for other in (attention.attention_sub_quad, attention.attention_split, partial(attention_sage)):
        assert torch.equal(with_gradient(other, q, k, v, heads=2), expected)
    kept = attention.attention_pytorch.__wrapped__
    assert with_gradient(kept, q, k, v, heads=2).grad_fn is not None


@pytest.mark.skipif(not pretend_device.is_asked_for(), reason="every torch has the CPU's")
def test_a_device_that_torch_has_no_module_for_trains_in_float32(monkeypatch):
    """DirectML's: torch.autocast asks for one, and torch's random numbers."""
    x, sigma = noisy(1)

    def learned(precision):
        with torch.inference_mode(False), open_denoiser(tiny.sd15(), None, precision) as denoiser:
            path = "input_blocks.1.1.proj_in"
            shape = denoiser.layers[path]
            up = torch.full((shape[0], 1), 0.1, device=DEVICE, requires_grad=True)
            factors = Factors(torch.ones(1, *shape[1:], device=DEVICE), up)
            with denoiser.edited({path: branch_edit(factors)}):
                found = denoiser.denoise(x.clone(), sigma, [tiny.conditioning(1)])
                found.square().sum().backward()
        return found.detach(), up.grad

    expected = learned("fp32")

    def none(*_, **__):
        raise AssertionError("there is none for this device")

    monkeypatch.setattr(torch, "autocast", none)
    monkeypatch.delattr(torch, DEVICE.type)
    for precision in ("fp32", "auto", "bf16"):
        torch.testing.assert_close(learned(precision), expected)


def test_a_model_loaded_under_inference_mode_still_trains():
    with torch.inference_mode():
        model = tiny.sd15()
        x, sigma = noisy(1)
        with open_denoiser(model, None, "bf16") as denoiser:
            path = "input_blocks.1.1.proj_in"
            shape = denoiser.layers[path]
            up = torch.zeros(shape[0], 1, device=DEVICE, requires_grad=True)
            edit = branch_edit(Factors(torch.ones(1, *shape[1:], device=DEVICE), up))
            with denoiser.edited({path: edit}):
                denoiser.denoise(x.clone(), sigma.clone(), [tiny.conditioning(1)]).sum().backward()
            assert up.grad is not None and bool(up.grad.abs().sum() > 0)


def test_decoding_without_a_vae_says_what_to_do():
    with open_denoiser(tiny.sd15()) as denoiser, pytest.raises(CraftError, match="VAE"):
        denoiser.decode(torch.zeros(1, 4, 8, 8))


def test_decoding_lets_gradients_through():
    from pair_parts import tiny_vae

    with torch.inference_mode():
        vae = tiny_vae()
        with open_denoiser(tiny.sd15(), vae) as denoiser:
            latent = torch.zeros(1, 4, 8, 8, requires_grad=True)
            picture = denoiser.decode(latent)
            assert picture.shape == (1, 3, 64, 64)
            picture.sum().backward()
            assert bool(latent.grad.abs().sum() > 0)
