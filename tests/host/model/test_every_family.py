"""Every family of the registry, on a tiny model of each of its classes: the host's LoRA loader, two
separately patched models, every method, a schedule, K-LoRA and `auto`."""

from __future__ import annotations

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
from craft_lora_pack.comfy_adapter.engine.modules import model_layers
from craft_lora_pack.comfy_adapter.guide.acfg import acfg_guider
from craft_lora_pack.comfy_adapter.model.lora_files import BranchFile
from craft_lora_pack.comfy_adapter.use.router import RouterRequest, route
from craft_lora_pack.craft_core.families import FAMILIES, NO_DENOISER
from craft_lora_pack.craft_core.fusion import FUSION
from craft_lora_pack.craft_core.lora.families import CLASSES, family_of
from craft_lora_pack.craft_core.schedule.schedule import Schedule
from oracle import distance
from tiny_families import TINY

FAMILY_OF = {kind: family for family in FAMILIES.values() for kind in family.classes}
FIRST = [f.classes[0] for f in FAMILIES.values() if f.classes[0] in TINY]
OTHERS = [kind for kind in TINY if kind not in FIRST]
STRENGTHS = (0.6, -0.4)
PROMPT = "<c>a cat</c> in <s>ink</s>"
LAW = 2e-5
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
        layers = model_layers(model)
        states = tuple(tiny.random_lora(layers, rank, seed=rank) for rank in (2, 3))
        for state, role in zip(states, "cs", strict=True):
            safetensors.torch.save_file(state, folder / f"{kind}_{role}.safetensors")
        return model, layers, states

    return make


def flat(samples):
    return torch.cat([one.flatten(1) for one in samples.unbind()], 1) if samples.is_nested else samples


def sample(kind, guider, steps=STEPS):
    return flat(oracle.sample(guider, TINY[kind].latent(), scheduler="simple", steps=steps))


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


def test_every_class_of_the_host_is_of_a_family_or_says_why_not():
    classes = {kind.__name__ for kind in comfy.supported_models.models}
    untested = {kind for family in FAMILIES.values() for kind in family.untested}
    assert set(FAMILY_OF) | set(NO_DENOISER) == classes
    assert sum(len(family.classes) for family in FAMILIES.values()) == len(FAMILY_OF)
    assert set(TINY) == set(FAMILY_OF) - untested
    assert all([*NO_DENOISER.values(), *(r for f in FAMILIES.values() for r in f.untested.values())])


@pytest.mark.parametrize("kind", TINY)
def test_the_layers_of_a_model_tell_its_family(kind, made):
    told = family_of(made(kind)[1])
    assert told == FAMILY_OF[kind].looks_like and told not in CLASSES


@pytest.mark.parametrize("kind", swept(TINY))
def test_all_layers_with_standard_guidance_are_the_hosts_lora_loader(kind, made):
    model, _, states = made(kind)
    ours, theirs = symmetric(kind, routed(kind, model)), symmetric(kind, loaded(model, states))
    assert distance(theirs, symmetric(kind, model)) > 0.005, "the files must matter"
    assert distance(ours, theirs) <= LAW


@pytest.mark.parametrize("kind", swept(TINY))
def test_asymmetric_guidance_is_two_separately_patched_models(kind, made):
    model, layers, states = made(kind)
    other, twin = TINY[kind].make(kind), TINY[kind].make(kind)
    deltas = [oracle.dense_deltas(state, layers) for state in states]
    reference = oracle.TwoModels(other, twin, deltas, lambda progress: STRENGTHS)
    reference.set_conds(*conditionings(kind))
    reference.set_cfg(4.0)
    assert distance(asymmetric(kind, routed(kind, model)), sample(kind, reference)) <= LAW
