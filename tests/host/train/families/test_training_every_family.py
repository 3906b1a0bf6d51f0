"""Trainings on a tiny model of every family: what is trained, and that a stopped one goes on."""

from __future__ import annotations

import functools
import re

import pytest
import torch
from craft_lora_pack.comfy_adapter.engine.modules import model_layers
from craft_lora_pack.comfy_adapter.train.denoiser import open_denoiser
from craft_lora_pack.craft_core.families import FAMILIES, runs_early
from craft_lora_pack.craft_core.training import Dataset, Example, Pictures, RoleLayers, lora
from craft_lora_pack.craft_core.training.targets import attention_linears, trainable
from tiny_families import TINY
from torch import nn

FIRST = [f.classes[0] for f in FAMILIES.values() if f.classes[0] in TINY]
NESTED = {kind for kind in TINY if isinstance(TINY[kind].shape[0], tuple)}
"""No picture is a latent of these."""
# What is read into a model, and what makes its modulations of them.
OUTSIDE = re.compile(
    r"(^|[._])(embed\w*|\w*embedder\w*|guidance\w*|(en|de)coder(?=\.\w*coder)|adapter|visual|"
    r"tokenizer|detokenizer|nerf\w*|timestep\w*|emb_layers)(\.|$)"
)


def swept(kinds):
    """The class that stands for its family in CI, its other classes with --all."""
    first = [kind for kind in FIRST if kind in kinds]
    rest = [kind for kind in TINY if kind in kinds and kind not in first]
    return [*first, *(pytest.param(kind, marks=pytest.mark.sweep) for kind in rest)]


@pytest.fixture(scope="module")
def made():
    """kind -> MODEL, made once for the tests of one kind that follow each other."""
    return functools.lru_cache(2)(lambda kind: TINY[kind].make(kind))


def in_a_list(network: nn.Module, path: str) -> bool:
    """Whether a layer is in one of several modules that the network holds in a list."""
    lists = (nn.ModuleList, nn.Sequential)
    beginnings = (path[: found.start()] for found in re.finditer(r"\.", path))
    return any(isinstance(network.get_submodule(one), lists) for one in beginnings)


@pytest.mark.parametrize("kind", TINY)
def test_every_family_trains_layers_of_its_blocks_and_none_that_read_something_in(kind, made):
    model = made(kind)
    layers = model_layers(model)
    found = trainable(layers)
    assert attention_linears(layers), "a model has attention"
    assert [path for path in found if OUTSIDE.search(path) or runs_early(path)] == []
    network = model.model.diffusion_model
    assert [path for path in found if not in_a_list(network, path)] == []


@pytest.mark.parametrize("kind", swept(set(TINY) - NESTED))
def test_a_stopped_training_on_all_layers_ends_as_an_uninterrupted_one(kind, made, tmp_path):
    """Also where the model throws the output of some layers away: they never get a gradient."""
    tiny = TINY[kind]
    generator = torch.Generator().manual_seed(1)
    picture = Example(torch.randn(*tiny.shape, generator=generator), tiny.conditioning(1), "a")
    data = Dataset((picture,), tiny.conditioning(2))
    with open_denoiser(made(kind), None, "fp32") as denoiser:

        def start():
            place = RoleLayers("content", frozenset(denoiser.layers), "all")
            return lora(denoiser, Pictures(data), place, rank=1, steps=2, learning_rate=1e-2)

        whole, stopped, resumed = start(), start(), start()
        whole.run()
        stopped.advance()
        stopped.save(tmp_path / "state.safetensors")
        resumed.resume(tmp_path / "state.safetensors")
        resumed.run()
    assert resumed.losses == whole.losses and resumed.step == 2
    for name, value in whole.parameters.items():
        assert torch.equal(resumed.parameters[name], value), name
    whole.write(tmp_path / "a.safetensors")
    resumed.write(tmp_path / "b.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
