"""Every family of the registry, on a tiny model of each of its classes: the host's LoRA loader, two
separately patched models, every method, a schedule, K-LoRA and `auto`."""

from __future__ import annotations

import contextlib
import functools

import comfy.sd
import comfy.supported_models
import folder_paths
import oracle
import pair_parts
import pytest
import safetensors.torch
import tiny
import torch
from craft_lora_pack.comfy_adapter.draw.activity import Activity, recorded_sheet
from craft_lora_pack.comfy_adapter.engine import engine
from craft_lora_pack.comfy_adapter.engine.modules import lora_layers, model_layers
from craft_lora_pack.comfy_adapter.guide.acfg import acfg_guider
from craft_lora_pack.comfy_adapter.model.file_layers import file_layers
from craft_lora_pack.comfy_adapter.model.lora_files import BranchFile
from craft_lora_pack.comfy_adapter.page.layer_counts import layer_counts
from craft_lora_pack.comfy_adapter.use.fuse_file import FuseRequest, fuse_branches
from craft_lora_pack.comfy_adapter.use.router import RouterRequest, route
from craft_lora_pack.comfy_adapter.use.sweep import sweep
from craft_lora_pack.craft_core.errors import CraftError
from craft_lora_pack.craft_core.families import FAMILIES, NO_DENOISER, mixes_rows, runs_early
from craft_lora_pack.craft_core.fusion import FUSION
from craft_lora_pack.craft_core.fusion.compose import compose
from craft_lora_pack.craft_core.lora.families import CLASSES, family_of
from craft_lora_pack.craft_core.routing import resolve
from craft_lora_pack.craft_core.routing.presets import OF_MODEL
from craft_lora_pack.craft_core.schedule.schedule import Schedule
from craft_lora_pack.craft_core.training.targets import trainable
from craft_lora_pack.craft_core.types import constant_gates
from oracle import distance
from tiny_families import TINY
from two_loras import bank_of

FAMILY_OF = {kind: family for family in FAMILIES.values() for kind in family.classes}
FIRST = [f.classes[0] for f in FAMILIES.values() if f.classes[0] in TINY]
OTHERS = [kind for kind in TINY if kind not in FIRST]
STRENGTHS = (0.6, -0.4)
PROMPT = "<c>a cat</c> in <s>ink</s>"
LAW = 2e-5
NAMED = (  # the families in use this year: more of them is in CI
    "SD15", "SDXL", "SD3", "Flux", "Flux2", "Chroma", "Krea2", "QwenImage", "ZImage", "Anima",
    "HiDream", "WAN21_T2V", "HunyuanVideo15", "LTXV", "LTXAV",
)  # fmt: skip
ALL_METHODS = ("WAN21_T2V",)  # beside the five of test_fusion_families.py
STEPS = 2


def swept(kinds):
    """The class that stands for its family in CI, its other classes with --all."""
    rest = [pytest.param(kind, marks=pytest.mark.sweep) for kind in OTHERS if kind in kinds]
    return [*(kind for kind in FIRST if kind in kinds), *rest]


@functools.cache
def clip():
    return pair_parts.tiny_clip()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A LoRA folder of the host."""
    folder = tmp_path_factory.mktemp("loras")
    folder_paths.add_model_folder_path("loras", str(folder))
    yield folder
    folder_paths.folder_names_and_paths["loras"][0].remove(str(folder))
    folder_paths.filename_list_cache.clear()


@pytest.fixture(scope="module")
def made(folder):
    """kind -> (MODEL, its layers, two files on all of them), each written once."""

    @functools.cache
    def make(kind: str):
        model = TINY[kind].make(kind)
        layers = {p: one for p, one in model_layers(model).items() if not runs_early(p)}
        states = tuple(tiny.random_lora(layers, rank, seed=rank) for rank in (2, 3))
        for state, role in zip(states, "cs", strict=True):
            safetensors.torch.save_file(state, folder / f"{kind}_{role}.safetensors")
        return model, layers, states

    return make


def flat(samples):
    return (
        torch.cat([one.flatten(1) for one in samples.unbind()], 1) if samples.is_nested else samples
    )


def share_of_noise(kind) -> float:
    """CogVideoX takes its latents unscaled, so that at its largest noise a latent's last digit is
    worth more than the law allows (see its own test); half of the noise is enough."""
    return 0.5 if kind.startswith("CogVideoX") else 1.0


def sample(kind, guider, steps=STEPS, noise=None):
    return flat(
        oracle.sample(
            guider, TINY[kind].latent(), scheduler="simple", steps=steps,
            denoise=noise or share_of_noise(kind),
        )
    )  # fmt: skip


def conditionings(kind):
    return TINY[kind].conditioning(1), TINY[kind].conditioning(2)


def symmetric(kind, model):
    return sample(kind, oracle.guider(model, *conditionings(kind)))


def asymmetric(kind, model):
    return sample(kind, acfg_guider(model, *conditionings(kind), 4.0, True))


def routed(kind, model, method="direct", sets="all", schedule=None, strengths=STRENGTHS):
    branches = tuple(
        BranchFile(f"{kind}_{role[0]}.safetensors", role, strength)
        for role, strength in zip(("content", "style"), strengths, strict=True)
    )
    request = RouterRequest(PROMPT, branches, sets, {"method": method}, schedule)
    return route(model, clip(), request).model


def loaded(model, states, strengths=STRENGTHS):
    for state, strength in zip(states, strengths, strict=True):
        model, _ = comfy.sd.load_lora_for_models(model, None, state, strength, 0.0)
    return model


def uncalled(kind, model, paths) -> set[str]:
    """Which of these modules a run never calls."""
    network, called = model.model.diffusion_model, set()
    with contextlib.ExitStack() as stack:
        for path in paths:
            hook = network.get_submodule(path).register_forward_hook(
                lambda *_, path=path: called.add(path)
            )
            stack.callback(hook.remove)
        symmetric(kind, model)
    return set(paths) - called


@pytest.mark.parametrize("kind", swept(TINY))
def test_every_layer_that_a_difference_changes_is_called(kind):
    """Linear layers, convolutions and normalisations: a run that does not call one gives the same
    with any weight of it, so that a LoRA on it has nothing to do."""
    model = TINY[kind].make(kind)
    layers = uncalled(kind, model, lora_layers(model))
    plain = symmetric(kind, model)
    for path in layers:
        model.model.diffusion_model.get_submodule(path).weight.data.mul_(1.5).add_(0.1)
    assert torch.equal(symmetric(kind, model), plain)


def test_every_class_of_the_host_is_of_a_family_or_says_why_not():
    host = comfy.supported_models
    classes = {kind.__name__ for kind in host.models if kind.__module__ == host.__name__}
    reasons = {kind: why for family in FAMILIES.values() for kind, why in family.untested.items()}
    assert set(FAMILY_OF) | set(NO_DENOISER) == classes
    assert sum(len(family.classes) for family in FAMILIES.values()) == len(FAMILY_OF)
    assert set(TINY) == set(FAMILY_OF) - set(reasons)
    assert all(
        [*NO_DENOISER.values(), *(r for f in FAMILIES.values() for r in f.untested.values())]
    )


@pytest.mark.parametrize("kind", TINY)
def test_the_layers_of_a_model_tell_its_family(kind, made):
    told = family_of(made(kind)[1])
    assert told == FAMILY_OF[kind].looks_like and told not in CLASSES


def ones(bank):
    return constant_gates(torch.ones(len(bank.layers), len(bank.branches)))


@pytest.mark.parametrize("kind", swept(TINY))
def test_all_layers_with_standard_guidance_are_the_hosts_lora_loader(kind, made):
    model, _, states = made(kind)
    ours, theirs = symmetric(kind, routed(kind, model)), symmetric(kind, loaded(model, states))
    assert distance(theirs, symmetric(kind, model)) > 0.005, "the files must matter"
    assert distance(ours, theirs) <= LAW


def test_at_cogvideoxs_largest_noise_we_are_as_near_to_the_host_as_rounding_lets_it_be(made):
    """Sigma 4519, where float32 counts in steps of 5e-4. Measured, in units of `distance`: ours to
    the host's 5e-5; the host's own rows one by one, and in float64, to themselves 1e-4. From half
    of the noise on, where the other tests begin: 1e-6, 1e-6."""
    kind = "CogVideoX_T2V"
    model, _, states = made(kind)
    other = TINY[kind].make(kind)  # never patched: its weights alone may go to float64
    steps = torch.finfo(torch.float32).eps * model.get_model_object("model_sampling").sigma_max
    assert steps > 20 * LAW

    def whole(patcher):
        return sample(kind, oracle.guider(patcher, *conditionings(kind)), noise=1.0)

    ours, theirs = whole(routed(kind, model)), whole(loaded(model, states))
    assert distance(ours, theirs) <= oracle.rounding_of(other, whole)


MIXED = {"SeedVR2", "Hunyuan3Dv2_1"}
"""Classes that exchange the two conditionings within: asymmetric guidance is refused."""
NOT_ONE_BY_ONE = {"ACEStep", "ACEStep15"}
"""Classes that make something else of two conditionings at once than of one after the other, also
without LoRAs."""


@pytest.mark.parametrize("kind", swept(set(TINY) - NOT_ONE_BY_ONE - MIXED))
def test_asymmetric_guidance_is_two_separately_patched_models(kind, made):
    model, layers, states = made(kind)
    kept = {path: shape for path, shape in layers.items() if not mixes_rows(path)}
    if len(kept) < len(layers):
        states = tuple(tiny.random_lora(kept, rank, seed=rank) for rank in (2, 3))
    other, twin = TINY[kind].make(kind), TINY[kind].make(kind)
    deltas = [oracle.dense_deltas(state, layers) for state in states]
    reference = oracle.TwoModels(other, twin, deltas, lambda progress: STRENGTHS)
    reference.set_conds(*conditionings(kind))
    reference.set_cfg(4.0)
    bank = bank_of(model, states, STRENGTHS)
    ours = engine.attach(model, bank, compose(ones(bank), bank))
    assert distance(asymmetric(kind, ours), sample(kind, reference)) <= LAW


REFUSED = [
    *(kind for kind, family in FAMILY_OF.items() if kind in FIRST and family.mixed_rows),
    *sorted(MIXED),
]


@pytest.mark.parametrize("kind", REFUSED)
def test_layers_whose_rows_are_mixed_are_refused_with_asymmetric_guidance(kind, made):
    model, layers, states = made(kind)
    if kind not in MIXED and not any(map(mixes_rows, layers)):
        assert kind == "HunyuanVideo15"  # its distilled upscaler has such a layer
        return
    with pytest.raises(CraftError, match="Turn asymmetric off"):
        asymmetric(kind, routed(kind, model))


EARLY = "are run once, before sampling"


@pytest.fixture(scope="module")
def early(folder):
    """(Anima's MODEL, a LoRA on its adapter of the text, the file's name)"""
    model = TINY["Anima"].make("Anima")
    layers = {path: one for path, one in model_layers(model).items() if runs_early(path)}
    state = tiny.random_lora(layers, 2, seed=5)
    safetensors.torch.save_file(state, folder / "early.safetensors")
    return model, state, "early.safetensors"


def test_where_layers_run_before_sampling_the_router_and_method_sweep_say_so(early):
    model, _, name = early
    request = RouterRequest(PROMPT, (BranchFile(name, "content", 0.5),), "all", {"method": "craft"})
    for told in (route(model, clip(), request), sweep(model, clip(), "craft", request, STEPS)):
        (text,) = (one for one in told.warnings if EARLY in one)
        assert "llm_adapter" in text and text in told.report


def test_a_loader_acts_there_so_they_are_in_a_fused_file_and_its_report_says_so(early):
    model, state, name = early
    plain = symmetric("Anima", model)
    assert distance(symmetric("Anima", loaded(model, [state], [1.0])), plain) > 1e-3
    request = FuseRequest((BranchFile(name, "content", 0.5),), "all", {"method": "direct"})
    made = fuse_branches(model, request, lambda done, total: None)
    assert made.layers and all(map(runs_early, made.layers))
    assert [line for line in made.report.splitlines() if EARLY in line]


def test_no_training_takes_layers_that_run_before_sampling(early):
    layers = model_layers(early[0])
    assert any(map(runs_early, layers)) and not any(map(runs_early, trainable(layers)))


def test_a_model_that_takes_one_row_evaluates_the_views_of_composite_one_by_one(made):
    """The views of a conditioning are copies of it, which the host would put into one batch."""
    kind = "MiniMaxH3"
    model = made(kind)[0]
    calls = []
    first = model.model.diffusion_model.video_patch_proj
    with first.register_forward_hook(lambda *_: calls.append(1)):
        symmetric(kind, routed(kind, model, "composite"))
    assert len(calls) == STEPS * 4, "two views of the prompt, and two of the negative prompt"


@pytest.mark.parametrize("kind", swept(TINY))
def test_what_the_page_draws_of_a_model_are_the_layers_that_act(kind, made, tmp_path):
    """The counts of layer sets, taken from the header of the model's file, and the map of a run."""
    model, layers, _ = made(kind)
    weights = model.model.diffusion_model.state_dict()
    named = {f"model.diffusion_model.{key}": one.clone() for key, one in weights.items()}
    file = tmp_path / "model.safetensors"
    safetensors.torch.save_file(named, file)
    assert file_layers(file) == model_layers(model)
    counts = layer_counts(file)["sets"]
    for key in OF_MODEL:
        try:
            sets = resolve(key, model_layers(model))
        except CraftError:
            assert counts[key].keys() == {"error"}, key
        else:
            assert counts[key]["content"] == len(sets.content), key
            assert counts[key]["style"] == len(sets.style), key
    watched, recorder = engine.recorded(routed(kind, model))
    symmetric(kind, watched)
    (record,) = recorder.records.values()
    drawn = Activity.recorded(record, STEPS)
    assert set(drawn.layers) == set(layers) and drawn.amounts.shape == (STEPS, len(layers), 2)
    assert torch.allclose(drawn.amounts, torch.tensor(STRENGTHS).abs().expand(drawn.amounts.shape))
    assert recorded_sheet(recorder, STEPS).std() > 0.1


def swept_methods():
    """In CI all in a video family and two in those of this year, the others with --all; at
    one step each does something of its own."""
    for kind in FIRST:
        for method in FUSION:
            if method.traits.pinned_layer_set is None:
                some = method.key in ("k_lora", "craft")
                in_ci = kind in ALL_METHODS or (some and kind in NAMED)
                marks = () if in_ci else pytest.mark.sweep
                yield pytest.param(kind, method.key, marks=marks, id=f"{kind}-{method.key}")


@pytest.mark.parametrize(("kind", "method"), [*swept_methods()])
def test_every_method_and_auto_with_a_schedule_run_in_every_family(kind, method, made):
    model, layers, _ = made(kind)
    sets = "auto" if FUSION[method].traits.layer_sets else "all"
    if method == "composite" and (kind in MIXED or any(map(mixes_rows, layers))):
        with pytest.raises(CraftError):  # its views are rows of their own
            symmetric(kind, routed(kind, model, method, sets))
        return
    plain = symmetric(kind, model)
    steady = symmetric(kind, routed(kind, model, method, sets))
    cosine = Schedule("cosine", clock="model")  # by steps both of two steps may be in full
    timed = symmetric(kind, routed(kind, model, method, sets, cosine))
    off = symmetric(kind, routed(kind, model, method, sets, strengths=(0.0, 0.0)))
    assert torch.isfinite(steady).all() and torch.isfinite(timed).all()
    assert distance(steady, plain) > 1e-4 and distance(timed, steady) > 1e-4
    assert torch.equal(off, plain)
